"""Cost curves: their lines and tables, what follows, and where they are remembered. No test asserts a time."""

import json
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dspark_lab as lab
from dspark_lab import cost
from dspark_lab.cost import (
    RoundClock,
    best_length,
    ceiling,
    measure_costs,
    measure_verify_cost,
    speedup,
    time_verifying,
    without_drift,
)
from dspark_lab.curves import Costs, Curve, Line, load_traces
from dspark_lab.decode import Leader
from dspark_lab.rounds import NO_DRAFT


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of remembered costs, empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "dspark-lab" / "costs"


def curve(seconds, spread=0.0, counts=None):
    """A Curve of exact medians, with quartiles ``spread`` around them."""
    low, high = (tuple(s * (1 + sign * spread / 2) for s in seconds) for sign in (-1, 1))
    return Curve(tuple(counts or range(1, len(seconds) + 1)), tuple(seconds), low, high, repeats=9)


def test_a_line_is_told_from_a_table():
    straight = curve([3 + 0.5 * n for n in range(1, 33)])
    assert straight.line.intercept == pytest.approx(3) and straight.line.slope == pytest.approx(0.5)
    assert straight(100) == pytest.approx(53)
    stairs = [9.58, 15.39, 15.12, 14.87, 14.64, 14.87]
    assert curve(stairs).line is None
    assert curve(stairs, spread=3.0).line  # measured so badly that a line cannot be refuted
    rng = np.random.default_rng(0)
    assert curve([(3 + 0.5 * n) * (1 + 0.02 * rng.normal()) for n in range(1, 17)]).line
    assert curve([1.0, 2.0]).line is None and curve([1.0]).line is None


def test_a_median_may_miss_a_line_by_five_per_cent_or_twice_its_standard_error():
    assert curve([4.0, 8.0, 12.0]).tolerance == pytest.approx([0.2, 0.4, 0.6])
    assert curve([4.0, 8.0], spread=0.3).tolerance == pytest.approx([2 * 0.93 * 0.3 * s / 3 for s in (4, 8)])


def test_a_table_goes_on_between_and_beyond_its_counts():
    table = curve([4.0, 8.0, 6.0], counts=[1, 2, 6])
    assert [table(n) for n in (0, 1, 2, 4, 6)] == pytest.approx([4, 4, 8, 7, 6])
    assert table(10) == pytest.approx(6 + 4 * max(table.best_line.slope, 0))
    assert curve([5.0])(3) == 5.0


def test_medians_and_quartiles_survive_json():
    found = Curve.of({2: [3.0, 1.0, 2.0, 5.0, 4.0], 1: [1.0] * 6})
    assert (found.counts, found.seconds, found.repeats) == ((1, 2), (1.0, 3.0), 5)
    assert (found.low[1], found.high[1]) == (2.0, 4.0)
    assert Curve.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    known = Costs(found, found, found, 1, wait=0.5)
    assert Costs.from_dict(json.loads(json.dumps(known.to_dict()))) == known
    older = {name: part for name, part in known.to_dict().items() if name != "wait"}
    assert Costs.from_dict(older) == replace(known, wait=0.0)


@given(st.floats(0.1, 3.0), st.floats(0.05, 1.5), st.floats(0.0, 3.0))
def test_from_break_even_on_some_length_pays(plain, slope, draft):
    known = Costs(Line(0.0, draft / 7), Line(plain, slope), Line(0.1, 0.0), 7)
    pays = [max(speedup(alpha, known, n) for n in range(8)) > 1 for alpha in np.linspace(0, 1, 101).tolist()]
    assert pays == sorted(pays)
    assert known.break_even == (pytest.approx(pays.index(True) / 100, abs=0.011) if any(pays) else np.inf)


def test_speedup_by_hand():
    """A plain round takes 1.0 + 4.0; a draft of n takes 1.0 + n / 4 + 4.0 + n / 2."""
    known = Costs(draft=Line(0.5, 0.25), verify=Line(3.5, 0.5), rest=Line(0.5, 0.0), longest=4)
    assert known.round(2) == pytest.approx(6.5)
    waiting = replace(known, wait=0.5)
    assert waiting.round(2) == pytest.approx(6.0) and waiting.round(0) == known.round(0)
    assert speedup(0.5, known, 2) == pytest.approx(1.75 * 5 / 6.5)
    assert speedup([0.9, 0.5, 0.1, 0.0], known, 3) == pytest.approx((1 + 0.9 + 0.45 + 0.045) * 5 / 7.25)
    assert speedup(0.7, known, 0) == 1.0
    assert ceiling(known) == pytest.approx(5 * 5 / 8)
    assert best_length(1.0, known) == 4 and best_length(0.0, known) == 0
    falling = [0.9, 0.5, 0.1, 0.0]
    assert best_length(falling, known) == max(range(5), key=lambda n: speedup(falling, known, n))
    assert best_length([0.9], known) == 1  # no further than the acceptance is known
    with pytest.raises(ValueError, match="1 positions; a draft of 2"):
        speedup([0.9], known, 2)
    with pytest.raises(ValueError, match="from 0 to 4"):
        known.round(5)


@pytest.mark.parametrize("mode", ["dspark", "dflash16", "eagle3", "lookup", "baseline"])
def test_every_draft_length_is_timed_in_the_loop(golden, mode):
    clock = RoundClock(golden, mode, context=40)
    for _ in range(3):
        clock.run()
    known, longest = clock.costs(), golden.drafter(mode).draft_length
    drafts, passes, rests, unread = clock.runs
    if mode == "lookup":  # it drafts what it finds
        assert all(set(run) <= set(range(8)) and 0 in run for run in drafts)
        assert known.verify.counts == tuple(range(1, 9))  # in the loop, or else by themselves
    else:
        lengths = set(range(longest + 1))
        assert [set(run) for run in drafts] == [lengths] * 3
        assert [set(run) for run in passes] == [{n + 1 for n in lengths}] * 3
        assert known.draft.repeats == 2  # the first run warmed up
    assert [set(run) for run in unread] == [set(run) for run in rests] == [set(run) for run in drafts]
    assert known.longest == longest and min(known.besides + known.passes) > 0
    parts = known.draft(longest) + known.verify(longest + 1) + known.rest(longest)
    assert known.round(longest) == pytest.approx(parts - known.wait) and known.wait >= 0


def test_draft_and_pass_are_timed_in_rounds_that_read_and_the_wait_against_rounds_that_do_not(golden, monkeypatch):
    clock, seconds = RoundClock(golden, "dspark", context=40), {"verify_seconds": 2.0, "other_seconds": 3.0}
    monkeypatch.setattr(clock, "rounds", lambda reads_draft: [replace(NO_DRAFT, draft_seconds=reads_draft, **seconds)])
    clock.run()
    assert clock.runs == [[{0: 1.0}], [{1: 2.0}], [{0: 3.0}], [{0: 5.0}]]


@pytest.mark.parametrize("saved, wait", [([0.2, 0.3, 0.3, 0.3, 0.3, 0.3, 9.0], 0.3), ([-0.1] * 7, 0.0)])
def test_what_reading_a_draft_costs_is_one_number(golden, saved, wait):
    clock = RoundClock(golden, "dspark", context=40)
    unread = {n: 11.0 + n - less for n, less in enumerate([0.0, *saved])}
    whole = [dict.fromkeys(unread, 2.0), {n + 1: 6.0 + n for n in unread}, dict.fromkeys(unread, 3.0), unread]
    clock.runs = [[one] * 3 for one in whole]
    known = clock.costs()
    assert known.wait == pytest.approx(wait)
    assert known.round(5) == pytest.approx(16 - wait) and known.round(0) == pytest.approx(11)


def test_plain_rounds_are_timed_among_plain_rounds(golden, monkeypatch):
    """As "auto" has them, whose pass was begun early and which begin the next."""
    clock, begun = RoundClock(golden, "dspark", context=40), []
    ahead = Leader.run_ahead
    monkeypatch.setattr(Leader, "run_ahead", lambda self, token: begun.append(len(clock.runs[0])) or ahead(self, token))
    for _ in range(3):
        clock.run()
    assert [r.draft_length for r in clock.rounds(reads_draft=True)].count(0) == 1
    assert all(begun.count(run) >= 2 for run in range(3))  # two of three begin the next; the middle one counts


def test_a_machine_that_is_slow_for_a_while_changes_no_proportion():
    """Each run has its own pace; without it every run says the same, at the mean of the paces."""
    true, paces = {1: 8.0, 2: 11.0, 3: 12.0}, [1.0, 1.5, 0.9, 2.0, 1.1]
    even = without_drift([{n: s * pace for n, s in true.items()} for pace in paces])
    assert even == {n: pytest.approx([s * 1.3] * 5) for n, s in true.items()}


def test_a_single_count_keeps_its_spread():
    assert without_drift([{1: 8.0}, {1: 9.0}, {1: 11.0}]) == {1: [8.0, 9.0, 11.0]}


def test_a_run_may_lack_a_count_and_one_slow_number_slows_no_other():
    """Prompt lookup drafts what it finds; and a number that was disturbed by itself stays what it is."""
    even = without_drift([{1: 8.0, 2: 11.0, 3: 12.0}, {1: 8.0, 3: 12.0}, {1: 8.0, 2: 110.0, 3: 12.0}])
    assert even == {1: pytest.approx([8.0] * 3), 2: pytest.approx([11.0, 110.0]), 3: pytest.approx([12.0] * 3)}


def test_a_pass_is_timed_for_every_number_of_tokens(golden, monkeypatch):
    asked, real = [], golden.target.forward

    def forward(tokens, cache, taps=()):
        asked.append((mx.array(tokens).size, cache[0].offset))
        return real(tokens, cache, taps)

    monkeypatch.setattr(golden.target, "forward", forward)
    found = time_verifying(golden.target, (1, 3, 8), context=20, repeats=4)
    assert found.counts == (1, 3, 8) and found.repeats == 4
    asked = asked[asked.index((20, 0)) :]  # before it the target made up a phrase
    assert sorted(asked[1:]) == sorted([(n, 20) for n in (1, 3, 8)] * 5)
    orders = {tuple(n for n, _ in asked[1 + 3 * i : 4 + 3 * i]) for i in range(5)}
    assert len(orders) > 1
    with pytest.raises(ValueError, match="leave room for"):
        time_verifying(golden.target, (1,), context=10**6)


def test_costs_are_remembered_and_measured_anew_on_request(golden, folder, monkeypatch):
    calls, fake = [], Costs(*[curve([1.0, 2.0], counts=[0, 1])] * 3, longest=1)
    monkeypatch.setattr(cost, "time_rounds", lambda pair, mode: calls.append(mode) or fake)
    monkeypatch.setattr(cost, "time_verifying", lambda target, tokens, context: calls.append(context) or fake.verify)
    assert measure_costs(golden) == measure_costs(golden, "dspark") == fake and calls == ["dspark"]
    measure_costs(golden, "dflash")
    measure_costs(golden, again=True)
    assert calls == ["dspark", "dflash", "dspark"]
    assert measure_verify_cost(golden) == measure_verify_cost(golden) == fake.verify
    measure_verify_cost(golden, range(1, 5), context=64)
    measure_verify_cost(golden, range(1, 5), context=64, again=True)
    assert calls[3:] == [cost.CONTEXT, 64, 64]
    (file,) = folder.iterdir()
    trace = load_traces(folder)[file.stem]
    assert trace.rounds == {"dspark": fake, "dflash": fake} and trace.verify == fake.verify
    assert trace.settings["precision"] == "float32" and trace.stamp["mlx"] and not trace.published
    monkeypatch.setattr(cost, "machine_stamp", lambda real=cost.machine_stamp: real() | {"mlx": "9.9"})
    measure_costs(golden)
    assert calls[-1] == "dspark" and len(list(folder.iterdir())) == 2  # other versions are another file


def test_shipped_traces_load_beside_this_machines_own(folder):
    assert not folder.exists()
    shipped = load_traces()
    line = shipped["published-m4-pro-gemma4-12b"]
    assert line.published and line.verify(1 + 2) == pytest.approx(0.035 + 2 * 0.014)  # cap 2
    stairs = shipped["study-h100-qwen3-4b-bfloat16"]
    assert stairs.published and not stairs.verify.line and stairs.verify(2) > stairs.verify(8)
    folder.mkdir(parents=True)
    stamped = {"stamp": {}, "settings": {}, "cells": {"verify": curve([1.0, 2.0]).to_dict()}}
    (folder / "mine.json").write_text(json.dumps(stamped))
    assert load_traces().keys() == shipped.keys() | {"mine"}
    (folder / "bad.json").write_text("{}")
    with pytest.raises(ValueError, match="is no cost file"):
        load_traces()


def test_precision_and_shapes_tell_models_apart(golden):
    from dspark_lab.bench.shapes import random_pair

    pairs = [random_pair("tiny", bits) for bits in (16, 8, 4)]
    assert [cost.precision(pair.target.model) for pair in pairs] == ["bfloat16", "8-bit", "4-bit"]
    assert cost.precision(golden.target.model) == "float32"
    assert len({cost.fingerprint(pair) for pair in [golden, *pairs]}) == 4
    tokens = lab.generate(pairs[1], [1, 2, 3], "dspark", max_tokens=6, max_draft=3).tokens
    assert len(tokens) == 6
    with pytest.raises(ValueError, match="qwen3-4b"):
        random_pair("qwen9", 16)


@pytest.mark.parametrize("mode", ["dspark", "dflash", "eagle3", "lookup", "baseline"])
def test_auto_gives_the_targets_own_text(golden, folder, mode):
    prompt = golden.tokenizer.encode("def encode(self, input):")
    plain = lab.generate(golden, prompt, "baseline", max_tokens=40).tokens
    result = lab.generate(golden, prompt, mode, max_tokens=40, max_draft="auto")
    assert result.tokens == plain
    assert folder.exists() == (mode != "baseline")  # nothing to choose, nothing to measure
    again = lab.generate(golden, prompt, mode, max_tokens=40, max_draft="auto", temperature=1.0, seed=3)
    same = lab.generate(golden, prompt, mode, max_tokens=40, max_draft="auto", temperature=1.0, seed=3)
    assert again.tokens == same.tokens  # costs are looked up, not timed along the way
    mx.synchronize()
