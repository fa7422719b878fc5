"""The contest of implementations and the limit, on made-up players and on the golden pair. No test asserts a time."""

import json
import os
from importlib.util import find_spec

import numpy as np
import pytest
from typer.testing import CliRunner

import dspark_lab as lab
from dspark_lab import cli
from dspark_lab.bench import commands, contest, peers
from dspark_lab.bench import speed as bench_speed
from dspark_lab.bench.limit import limit
from dspark_lab.bench.speed import clock
from dspark_lab.export import export_pair

PROMPT = [5, 9, 17]


def test_tokens_of_a_round_arrive_with_the_first_of_them():
    arrived = [(1.0, 0, 4), (2.0, 1, 5), (2.5, 1, 6), (4.0, 2, 7)]
    assert peers.by_round(arrived) == [(1.0, [4]), (2.0, [5, 6]), (4.0, [7])]
    assert clock(peers.by_round(arrived)) == ([4, 5, 6, 7], 1.0)
    assert np.isnan(clock([(1.0, [4, 5])])[1])


def counting(model, folder, small):
    """A made-up implementation: counts on from the prompt, ``step`` tokens a second, as far as it is asked."""

    def run(prompt, max_tokens, step=1):
        if step == 3:
            raise ValueError("cannot do\n threes")
        return [(i / step, [prompt[-1] + i]) for i in range(max_tokens + 1)]

    return run


def closed(model, folder, small):
    raise ImportError("nothing here")


def deadly(model, folder, small):
    return lambda prompt, max_tokens: os._exit(1)


def tiring(model, folder, small):
    """As `counting`, but it fails on prompts that end with 8."""

    def run(prompt, max_tokens):
        if prompt[-1] == 8:
            raise RuntimeError("tired of 8")
        return [(float(i), [prompt[-1] + i]) for i in range(max_tokens + 1)]

    return run


def made_up_contest(pair, table, prompts):
    """The cell of a contest of ``table`` (row -> (opener, settings)) on one BLAS thread."""
    with contest.players(table, {"model": None, "folder": None, "small": None}) as found:
        entries = {
            name: [contest.Entry(found[opener], setting, 1, 4) for setting in settings]
            for name, (opener, settings) in table.items()
        }
        return contest.contest(pair, entries, [[0]], prompts, 4)


def test_contest_finds_the_best_setting_and_says_who_cannot(golden):
    table = {
        peers.PLAIN: (counting, [{}]),
        peers.STATIC: (counting, [{"step": 1}, {"step": 4}, {"step": 3}, {"step": 2}]),
        "threes alone": (counting, [{"step": 3}]),
        "closed": (closed, [{}]),
        "deadly": (deadly, [{}]),
    }
    cell = made_up_contest(golden, table, [[1], [2], [3]])
    best = cell["rows"][peers.STATIC]
    assert best["setting"] == {"step": 4} and best["tokens_per_second"] == 4 and best["differences"] == []
    assert cell["rows"][peers.PLAIN]["seconds_per_token"] == [1.0] * 3
    assert cell["ratios"][peers.STATIC][peers.PLAIN]["estimate"] == 4
    assert cell["ratios"][peers.PLAIN].keys() == {peers.STATIC}
    reasons = {name: row["reason"] for name, row in cell["rows"].items() if "reason" in row}
    assert reasons == {
        "threes alone": "ValueError: cannot do threes",
        "closed": "ImportError: nothing here",
        "deadly": "its process died",
    }


def made_up_cell(rates, ratios):
    rows = {name: {"setting": {}, "tokens_per_second": rate} for name, rate in rates.items()}
    return {"rows": {**rows, "mlx-vlm, DSpark": {"reason": "-"}}, "ratios": ratios}


def test_who_fails_later_is_dropped_with_its_reason(golden):
    table = {
        peers.PLAIN: (counting, [{}]),
        "never again": (tiring, [{}]),
        "another setting": (counting, [{"step": 1}, {"step": 2}]),
    }
    cell = made_up_contest(golden, table, [[5], [8], [9]])
    assert cell["rows"]["never again"] == {"reason": "RuntimeError: tired of 8"}
    assert cell["rows"]["another setting"]["setting"] == {"step": 2}
    assert cell["ratios"][peers.PLAIN].keys() == {"another setting"}
    with pytest.raises(contest.Unusable, match="tired of 8"):
        made_up_contest(golden, {peers.PLAIN: (tiring, [{}])}, [[5], [8]])  # a row of ours is never dropped


def test_bars_are_missed_by_whole_intervals():
    rates = {peers.PLAIN: 90.0, peers.AUTO: 200.0, peers.MLX_LM: 100.0, peers.MLX_DSPARK: 201.0}
    below, touching = ({"estimate": e, "low": e - 0.1, "high": e + 0.05} for e in (0.9, 1.06))
    ratios = {peers.PLAIN: {peers.MLX_LM: below}, peers.AUTO: {peers.MLX_DSPARK: touching}}
    found = contest.bars({"math": made_up_cell(rates, ratios), "code": made_up_cell({peers.PLAIN: 2.0}, {})})
    assert found["plain/math"] == {**below, "bar": 1.0, "met": False}
    assert found["auto/math"] == {**touching, "bar": 1.1, "met": True}
    assert found["ahead/math"] == [peers.MLX_DSPARK]
    assert found["plain/code"] is None and found["ahead/code"] == []


@pytest.fixture(scope="module")
def places(golden, golden_folder, tmp_path_factory):
    """What every opener is given: the golden pair, laid out as the lab's own, and exported; small is the target."""
    from lab_layout import write_lab

    model = str(write_lab(golden_folder, tmp_path_factory.mktemp("model")))
    folder = export_pair(lab.load_pair(model), tmp_path_factory.mktemp("exported") / "pair")
    return {"model": model, "folder": folder, "small": folder / "target"}


@pytest.mark.parametrize(
    ("opener", "package", "settings"),
    [
        (peers.dspark_lab, "dspark_lab", [{"mode": "baseline"}, {"mode": "dspark", "max_draft": 3}]),
        (peers.mlx_lm, "mlx_lm", [{}, {"num_draft_tokens": 3}]),
        (peers.mlx_dspark, "mlx_dspark", [{}, {"max_draft_tokens": 3, "lookup_drafts": False}]),
        (peers.dflash_mlx, "dflash_mlx", [{}, {"block_tokens": 4}]),
    ],
)
def test_an_implementation_gives_the_tokens_of_plain_decoding(places, opener, package, settings):
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed; it comes with the extra bench")
    pair = lab.load_pair(places["model"])
    with contest.players({"": (opener, [])}, places) as found:
        for setting in settings:
            for prompt in (PROMPT, [4, 8]):
                tokens, seconds = found[opener].ask(1, prompt, 24, setting)
                plain = lab.generate(pair, prompt, "baseline", max_tokens=24).tokens
                assert tokens[:24] == plain and (seconds > 0 or len(plain) == 1)


def test_mlx_vlm_says_why_it_cannot_take_part(places):
    if find_spec("mlx_vlm") is None:
        pytest.skip("mlx_vlm is not installed; it comes with the extra bench")
    with contest.players({"": (peers.mlx_vlm, [])}, places) as found, pytest.raises(contest.Unusable, match="tapped"):
        found[peers.mlx_vlm].ask(1, PROMPT, 8, {"drafter": "dspark"})


def test_limit_is_made_of_all_parts(golden):
    cell = limit(golden, "dspark", [PROMPT, [4, 8], [6, 7]], 7, 24)
    assert set(cell["milliseconds"]) == {"verify", "backbone and head", "Markov loop", "context update"}
    assert min(cell["milliseconds"].values()) > 0 and cell["rounds"] >= 6
    assert cell["share"]["low"] <= cell["share"]["estimate"] <= cell["share"]["high"]
    with pytest.raises(ValueError, match="no Markov loop"):
        limit(golden, "dflash", [PROMPT, [4, 8]], 7, 24)


def test_peers_command(places, tmp_path, monkeypatch):
    monkeypatch.setattr(bench_speed, "thread_counts", lambda: [1])
    few = {name: peers.rows([3])[name] for name in (peers.PLAIN, peers.STATIC, peers.MLX_LM, "mlx-vlm, DSpark")}
    monkeypatch.setattr(peers, "rows", lambda caps: few)
    monkeypatch.setattr("dspark_lab.bench.prompts.heldout_prompts", lambda *_: [PROMPT, [4, 8], [6, 7]])
    out = tmp_path / "peers.json"
    args = ["bench", "peers", "--model", places["model"], "--from", places["model"], "--domains", "math"]
    args += ["--prompts", "2", "--trial-prompts", "1", "--max-tokens", "16", "--max-draft", "3", "--out", str(out)]
    result = CliRunner().invoke(cli.app, args, env={"COLUMNS": "160", "NO_COLOR": "1"}, prog_name="dspark-lab")
    assert result.exit_code == 0, result.output
    cells = json.loads(out.read_text())["cells"]
    assert list(cells) == ["contest/math", "limit/math", "bars"]
    rows = cells["contest/math"]["rows"]
    assert rows[peers.STATIC]["setting"] == {"mode": "dspark", "max_draft": 3}
    assert [row["differences"] for row in rows.values() if "setting" in row] == [[]] * 3
    assert "reason" in rows["mlx-vlm, DSpark"] and "cannot take part" in result.output
    assert "of the limit" in result.output and commands.app is not None


def test_every_row_has_settings_to_choose_from():
    table = peers.rows([1, 7])
    assert {opener for opener, _ in table.values()} == {
        peers.dspark_lab,
        peers.mlx_lm,
        peers.mlx_dspark,
        peers.mlx_vlm,
        peers.dflash_mlx,
    }
    assert all(settings for _, settings in table.values())
    assert table[peers.MLX_DSPARK][1] == [{"max_draft_tokens": cap, "lookup_drafts": False} for cap in (1, 7)]
