"""The races that the notebooks replay: really run, and run with the weights that ship."""

import json

import pytest
from hand_rounds import hand_text

import dspark_lab as lab
from dspark_lab import examples, race, widgets
from dspark_lab.bench import races
from dspark_lab.bench.races import record_races


@pytest.fixture(scope="module")
def pair():
    """The lab pair."""
    return lab.load_pair()


@pytest.mark.parametrize("domain", examples.RACE_PROMPTS)
def test_recorded_races_are_of_the_weights_that_ship(domain, pair):
    trace = examples.recorded_races()[domain]
    lanes, decode = race.replay(trace)
    for _ in race.run(lanes):
        pass
    told = lab.generate(pair, examples.RACE_PROMPTS[domain], max_tokens=examples.RACE_TOKENS)
    assert (trace["domain"], trace["prompt"]) == (domain, examples.RACE_PROMPTS[domain])
    assert lanes[0].tokens == lanes[1].tokens == told.tokens, "record them again: bench.races.record_races(pair)"
    assert [r.accepted for r in lanes[1].rounds] == [r.accepted for r in told.rounds]
    assert "".join(decode([token]) for token in told.tokens).startswith(told.text)


def test_races_are_recorded_as_they_were_run(tmp_path, monkeypatch, pair):
    monkeypatch.setattr(examples, "RACE_PROMPTS", {"math": "2 + 2 ="})
    monkeypatch.setattr(examples, "RACE_TOKENS", 6)
    record_races(pair, tmp_path, repeats=1)
    trace = json.loads((tmp_path / "math.json").read_text())
    assert trace["same"] == "the same, one for one" and trace["stamp"].endswith(", the median of 1 runs")
    assert len(trace["lanes"][0]["rounds"]) == 6 and trace["lanes"][0]["rounds"][0]["verify_seconds"] > 0
    assert widgets.Race(traces=[trace]).source.value.startswith("recorded: math, dspark, ")


def test_of_several_runs_the_one_of_median_speedup_is_kept(tmp_path, monkeypatch, pair):
    def run(pair, prompt, mode):
        lanes = [
            race.Recording(name, [], hand_text([1, 2, 0], seconds=s)) for name, s in zip(modes, (0.01, next(slow)))
        ]
        for lane in lanes:
            lane.rounds = lane.stream
        return lanes

    modes, slow = ("baseline", "dspark"), iter([0.02, 0.004, 0.03, 0.01, 0.005])
    monkeypatch.setattr(examples, "RACE_PROMPTS", {"math": "2 + 2 ="})
    monkeypatch.setattr(races, "run", run)
    record_races(pair, tmp_path, repeats=5)
    rounds = json.loads((tmp_path / "math.json").read_text())["lanes"][1]["rounds"]
    assert rounds[0]["verify_seconds"] == pytest.approx(0.6 * 0.01)  # of .004, .005, .01, .02 and .03


def test_recorded_floats_have_five_significant_digits():
    told = {"seconds": [0.0123456789, 1234567.8, 1e-9], "n": 1234567, "text": "0.123456789", "none": None, "yes": True}
    assert races.rounded(told) == {**told, "seconds": [0.012346, 1234600.0, 1e-9]}
    assert isinstance(races.rounded(told)["n"], int)
