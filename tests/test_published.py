"""Published figures: complete, and the same as the other places of the package say."""

from dspark_lab import published, registry
from dspark_lab.curves import load_traces


def test_every_row_has_a_figure_a_task():
    tasks = [task for group in published.TASKS.values() for task in group]
    for table in published.ACCEPTED_LENGTH.values():
        assert set(table) == {"eagle3", "dflash", "dspark"}
        for row in table.values():
            assert len(row) == len(tasks) == 9 and all(1 < length < 8 for length in row)


def test_the_registry_quotes_the_same_paper():
    row = published.ACCEPTED_LENGTH["Qwen3-8B"]["dspark"]
    gsm8k, human_eval, mt_bench = row[0], row[4], row[6]
    said = [figure.what for figure in registry.find("mlx-community/Qwen3-8B-8bit").figures if "GSM8K" in figure.what]
    assert said[0].startswith(f"{gsm8k} tokens a pass on GSM8K, {human_eval} HumanEval, {mt_bench} MT-Bench")


def test_the_gains_by_block_are_those_of_table_1():
    rows = {mode: published.by_kind(row) for mode, row in published.ACCEPTED_LENGTH["Qwen3-4B"].items()}
    for kind, gain in published.GAIN_BY_BLOCK[7].items():
        assert round(rows["dspark"][kind] / rows["dflash"][kind] - 1, 2) == gain, kind


def test_by_kind_averages_three_tasks():
    kinds = published.by_kind((1, 2, 3, 4, 4, 4, 9, 8, 7))
    assert kinds == {"math": 2, "code": 4, "chat": 8}


def test_the_shipped_line_of_the_m4_pro_is_of_the_same_machine():
    line = load_traces()["published-m4-pro-gemma4-12b"].verify
    plain, table = published.M4_PRO["Gemma-4 12B"]
    tau, rate = table["dspark cap 2"]["chat"]
    assert line(3) < tau / rate < 1.5 * line(3)  # a round with two drafts: the pass, and the drafter's share
    assert plain < rate
