"""Training by the clock on what the target answers: its lessons, its clock, and a drafter that comes of it."""

import json

import mlx.core as mx
import numpy as np
import pytest
from typer.testing import CliRunner

import dspark_lab as lab
from dspark_lab import cli
from dspark_lab.bench.common import TRACES
from dspark_lab.train import quick
from dspark_lab.train.drafters import new_drafter
from dspark_lab.train.lab import LAB


@pytest.fixture(scope="module")
def pair():
    """The lab pair, without its drafters."""
    return lab.load_pair(mode="baseline", drafter=[])


@pytest.fixture(scope="module")
def lessons(pair):
    """Four short texts of the target's."""
    prompts = quick.ask(pair, 4, seed=1)
    return prompts, quick.make_lessons(pair, LAB.taps, prompts, max_tokens=16)


def fresh(pair):
    """A drafter of one thin layer that has learnt nothing."""
    return new_drafter({**quick.thin_config(pair), "intermediate_size": 64, "markov_rank": 16}, pair.target, seed=0)


def test_lessons_are_what_the_target_computes_on_its_own_answers(pair, lessons):
    prompts, given = lessons
    for row, prompt in enumerate(prompts):
        text = given.tokens[row, : given.ends[row]].tolist()
        assert text[: len(prompt)] == prompt and given.starts[row] == len(prompt) < len(text) <= len(prompt) + 16
        logits, hidden = pair.target.forward(text, pair.target.new_cache(), LAB.taps)
        assert mx.allclose(given.logits[row, : len(text)], logits, atol=1e-2).item()
        assert mx.allclose(given.hidden[row, : len(text)], hidden[0], atol=1e-2).item()


def test_blocks_are_drawn_from_the_answers(lessons):
    _, given = lessons
    *_, anchors, ends = given.draw(np.random.default_rng(0), batch=8, anchors=2000)
    rows = np.random.default_rng(0).integers(4, size=8)  # the generator's first draw
    low, high = np.array(anchors).min(axis=1), np.array(anchors).max(axis=1)
    assert (low == given.starts[rows] - 1).all()  # the last token of the prompt: an answer's first follows it
    assert (high == given.ends[rows] - 2).all() and (np.array(ends) == given.ends[rows]).all()


def test_some_steps_teach_it_and_its_tokens_stay_the_targets(pair, lessons):
    _, given = lessons
    drafter = fresh(pair)
    before = quick.mean_overlaps(drafter, given)
    losses = [loss for _, loss in quick.train(drafter, given, steps=20)]
    assert len(losses) == 20 and np.mean(losses[-3:]) < losses[0] - 0.3
    assert (before < 0.02).all() and (quick.mean_overlaps(drafter, given) > 0.05).all()
    mine = lab.Pair(pair.target, {"mine": drafter}, pair.tokenizer, pair.stop_tokens)
    asked = lab.examples.PROMPTS["math"][0]
    answers = [lab.generate(mine, asked, mode, max_tokens=24).tokens for mode in ("baseline", "mine")]
    assert answers[0] == answers[1]


def test_the_clock_runs_in_steps_alone(pair, lessons, monkeypatch):
    """Every look at the clock is a second later: a step takes one second, and three seconds are three steps."""
    ticks = iter(range(1000))
    monkeypatch.setattr(quick.time, "perf_counter", lambda: float(next(ticks)))
    spent = []
    for seconds, _ in quick.train(fresh(pair), lessons[1], seconds=3):
        spent.append(seconds)
        [next(ticks) for _ in range(50)]  # whoever looks on may take their time
    assert spent == [1, 2, 3]


def test_looks_come_before_in_between_and_at_the_end(pair, lessons, monkeypatch):
    ticks = iter(range(1000))
    monkeypatch.setattr(quick.time, "perf_counter", lambda: float(next(ticks)))
    seen = list(quick.climb(fresh(pair), lessons[1], lessons[1], seconds=5, looks=2))
    assert [(spent, step) for spent, step, _ in seen] == [(0, 0), (3, 3), (5, 5)]
    assert all(overlaps.shape == (7,) for *_, overlaps in seen)


def test_the_same_seed_trains_the_same(pair, lessons):
    runs = [[loss for _, loss in quick.train(fresh(pair), lessons[1], steps=3, seed=seed)] for seed in (5, 5, 6)]
    assert runs[0] == runs[1] != runs[2]


@pytest.mark.parametrize("given", [{}, {"seconds": 1, "steps": 1}, {"steps": 0}, {"seconds": -1.0}])
def test_time_or_steps_must_be_given(given):
    with pytest.raises(ValueError, match="give one of them"):
        next(quick.train(None, None, **given))


def test_the_command_records_the_climb(tmp_path):
    out = tmp_path / "training.json"
    small = ("--seconds", "1", "--texts", "2", "--unseen", "2", "--max-tokens", "8", "--out", str(out))
    result = CliRunner().invoke(cli.app, ["bench", "training", *small], prog_name="dspark-lab")
    assert result.exit_code == 0, result.output
    record = json.loads(out.read_text())
    climb = record["cells"]["climb"]
    assert record["settings"]["seconds"] == 1 and {"processor", "mlx", "date", "weights"} <= set(record["stamp"])
    assert climb[0]["seconds"] == climb[0]["steps"] == 0 and climb[-1]["seconds"] >= 1
    assert all(len(row["overlaps"]) == 7 for row in climb) and len(record["cells"]["shipped"]) == 7


def test_the_recorded_five_minutes_are_five_and_climb():
    record = json.loads((TRACES / "training-five-minutes.json").read_text())
    first, *_, last = record["cells"]["climb"]
    assert record["settings"]["seconds"] == 300 <= last["seconds"]
    assert all(a + 0.2 < b for a, b in zip(first["overlaps"], last["overlaps"]))
