"""bench cost and bench auto with tiny settings: what is in the files adds up. No test asserts a time."""

import json

import numpy as np
import pytest
from test_bench import command, training  # noqa: F401 (fixtures)
from test_schedule import make_round
from typer.testing import CliRunner

import dspark_lab as lab
from dspark_lab import cli
from dspark_lab.bench.auto import blocks_at, over_domains, seconds_a_token, walk
from dspark_lab.curves import Costs, Line, load_traces


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_cost_of_a_shape_with_random_weights(tmp_path):
    args = ["bench", "cost", "--shape", "tiny", "--bits", "8", "--tokens", "4", "--context", "48", "--repeats", "3"]
    out = tmp_path / "tiny.json"
    run = lambda: CliRunner().invoke(  # noqa: E731
        cli.app, [*args, "--modes", "dspark", "--out", str(out)], env={"COLUMNS": "120", "NO_COLOR": "1"}
    )
    result = run()
    assert result.exit_code == 0, result.output
    trace = load_traces(tmp_path)["tiny"]
    assert trace.settings == {"model": "tiny-random", "precision": "8-bit", "context": 48, "repeats": 3}
    assert trace.verify.counts == (1, 2, 3, 4) and trace.verify.repeats == 3
    assert trace.rounds["dspark"].draft.counts == tuple(range(8)) and trace.stamp["device"]
    assert "ms, verify, by tokens" in result.output and "dspark: draft, by draft length" in result.output
    before = out.read_text()
    assert run().exit_code == 0 and out.read_text() == before  # it goes on where it stopped: nothing is left to do
    both = CliRunner().invoke(cli.app, [*args, "--model", "x"])
    assert both.exit_code == 2 and "not both" in both.output


def test_auto_adds_up(command):  # noqa: F811
    args = ("--domains", "code,math", "--modes", "dspark", "--caps", "1,3", "--prompts", 3, "--max-tokens", 12)
    result, record = command("auto", *args)
    cells = record["cells"]
    assert [name for name in cells if name.startswith("auto/")] == ["auto/code/dspark/0", "auto/math/dspark/0"]
    for cell in (cells["auto/code/dspark/0"], cells["auto/math/dspark/0"]):
        known = Costs.from_dict(cell["costs"])
        assert all(1 <= rate * known.round(cap) <= cap + 1 for rate, cap in zip(cell["predicted"], (1, 3)))
        rates = [measured["estimate"] for measured in cell["measured"]]
        assert cell["best_cap"] == (1, 3)[int(np.argmax(rates))]
        assert cell["median_error"] == pytest.approx(np.median(np.abs(np.array(cell["predicted"]) / rates - 1)))
        assert 0 <= cell["lost_by_prediction"] < 1 and cell["ceiling"] > 0
        over = cell["predicted_over_best_cap"]
        assert over["estimate"] == pytest.approx(1 - cell["lost_by_prediction"]) and over["low"] <= over["high"]
        for ratio in ("auto_over_plain", "auto_over_best_cap"):
            found = cell[ratio]["ratio"]
            assert found["low"] <= found["estimate"] <= found["high"] and found["prompts"] == 3
    mean = cells["domains/dspark/0"]
    ratios = [cells[f"auto/{domain}/dspark/0"]["auto_over_plain"]["ratio"]["estimate"] for domain in ("code", "math")]
    assert (
        mean["estimate"] == pytest.approx(np.sqrt(np.prod(ratios))) and mean["low"] <= mean["estimate"] <= mean["high"]
    )
    assert "Tokens/s by cap" in result.output and "geometric mean over domains" in result.output


def test_the_geometric_mean_over_domains():
    """Auto twice as fast in one domain, half as fast in the other, without spread: 1, for certain."""
    cells = [{"auto_over_plain": {"seconds_per_token": [[1.0] * 3, [factor] * 3]}} for factor in (2.0, 0.5)]
    assert over_domains(json.loads(json.dumps(cells))) == {"estimate": 1.0, "low": 1.0, "high": 1.0, "domains": 2}


def test_a_cap_is_priced_by_the_rounds_it_takes():
    """Nothing found, a whole block of 2, a miss, two more blocks; the reader's clock leaves out the first round."""
    known = Costs(Line(0.0, 0.0), Line(1.0, 1.0), Line(0.0, 0.0), 2)  # a round costs 2 and one more a draft
    block = lambda right: make_round(2, 2, right)  # noqa: E731
    blocks = [make_round(0, 0, 0), *map(block, (2, 2, 1, 0, 2)), make_round(1, 1, 1), make_round(0, 0, 0)]
    assert walk(blocks, 2) == [(1, 0), (3, 2), (1, 2), (3, 2)]
    assert walk(blocks, 1) == [(1, 0), (2, 1), (2, 1), (2, 1), (1, 0)]  # begins elsewhere, and finds what 2 had missed
    assert seconds_a_token(blocks, known, 2) == pytest.approx((4 + 4 + 4) / (3 + 1 + 3))
    assert seconds_a_token(blocks, known, 1) == pytest.approx((3 + 3 + 3 + 2) / (2 + 2 + 2 + 1))
    assert np.isnan(seconds_a_token(blocks[:1], known, 1))  # all in one round


@pytest.mark.parametrize("mode", ["dspark", "dflash", "eagle3", "lookup"])
def test_a_cap_takes_the_rounds_that_were_walked(golden, mode):
    prompt = golden.tokenizer.encode("def encode(self, input):")
    answer = lab.generate(golden, prompt, mode, max_tokens=24).rounds
    blocks = blocks_at(golden, prompt, answer, mode, max_tokens=24, temperature=0.0)
    for cap in (1, 3, 7):
        rounds = lab.generate(golden, prompt, mode, max_tokens=24, max_draft=cap).rounds
        assert walk(blocks, cap) == [(r.accepted_length, r.draft_length) for r in rounds]
