"""Published figures: complete, and the same as the other places of the package say."""

from dspark_lab import published, registry
from dspark_lab.curves import load_traces


def test_every_row_has_a_figure_a_task():
    tasks = [task for group in published.TASKS.values() for task in group]
    for table in published.ACCEPTED_LENGTH.values():
        assert set(table) == {"eagle3", "dflash", "dspark"}
        for row in table.values():
            assert len(row) == len(tasks) == 9 and all(1 < length < 8 for length in row)


def test_the_registry_quotes_these_tables():
    said = [figure.what for figure in registry.find("mlx-community/Qwen3-8B-8bit").figures]
    assert said[0].startswith("29.4 to 47 tokens/s, 1.6x, 2.44 tokens a pass")
    assert said[1].startswith("6.17 tokens a pass on GSM8K, 5.52 HumanEval, 3.72 MT-Bench")


def test_the_gains_by_block_are_those_of_table_1():
    """A kind of text is the mean of its three tasks, which stand in order."""
    rows = published.ACCEPTED_LENGTH["Qwen3-4B"]
    for i, kind in enumerate(published.TASKS):
        ours, theirs = (sum(rows[mode][3 * i : 3 * i + 3]) for mode in ("dspark", "dflash"))
        assert round(ours / theirs - 1, 2) == published.GAIN_BY_BLOCK[7][kind], kind


def test_the_shipped_line_of_the_m4_pro_is_of_the_same_machine():
    line = load_traces()["published-m4-pro-gemma4-12b"].verify
    plain, table = published.M4_PRO["Gemma-4 12B"]
    tau, rate = table["dspark cap 2"]["chat"]
    assert line(3) < tau / rate < 1.5 * line(3)  # a round with two drafts: the pass, and the drafter's share
    assert plain < rate
