"""Algorithm 1, its delayed and its retrospective variant for R requests, and "auto" in small worlds of its own."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dspark_lab.auto import OPTIMISM, WEIGHT, Auto, Position
from dspark_lab.curves import Costs, Curve, Line, load_traces
from dspark_lab.rounds import NO_DRAFT
from dspark_lab.schedule import (
    Cap,
    Delayed,
    HardwareAware,
    Retrospective,
    WholeDraft,
    scheduled_length,
    survival_of,
)

# One H100, MLX 0.32.4 CUDA, Qwen3-4B shapes in bfloat16 with random weights, 256 tokens of context: ms by tokens.
TOKENS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 64)
MS = (9.58, 15.39, 15.12, 14.87, 14.64, 14.87, 14.64, 14.17, 14.40, 14.24, 13.81, 14.38, 13.62)
STAIRCASE = Curve(TOKENS, MS, MS, MS, repeats=10)
BUS, TAXI = Line(4.0, 0.5), Line(0.0, 9.7)

# Quarters: their products and sums are exact, so that ties are ties.
survivals = st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), max_size=6).map(lambda c: survival_of(c, len(c)))
tables = st.lists(st.integers(1, 40), min_size=30, max_size=30).map(lambda s: dict(enumerate(s, 1)).get)


def rate(schedule, survivals, lengths):
    """Expected tokens per unit of time if each request verifies so many of its drafts."""
    tokens = sum(sum(s[: n + 1]) for s, n in zip(survivals, lengths))
    return tokens / schedule.step_seconds(len(lengths) + sum(lengths))


def test_a_staircase_traps_algorithm_1_but_not_the_delayed_variant():
    drafts = [survival_of([0.55] * 7, 7)]
    stopped, searched = HardwareAware(STAIRCASE), Delayed(STAIRCASE)
    assert STAIRCASE.line is None
    assert stopped.lengths(drafts) == [0] and rate(stopped, drafts, [0]) == pytest.approx(0.104, abs=5e-4)
    assert searched.lengths(drafts) == [7] and rate(searched, drafts, [7]) == pytest.approx(0.151, abs=5e-4)
    assert scheduled_length(stopped, survival_of([0.55] * 7, 7)) == 0
    before = make_round(7, 7, 0, [0.55] * 7)
    doubtful = survival_of([0.1] * 7, 7)  # this round's own confidence, at which a delayed schedule does not look
    assert scheduled_length(searched.after(before), doubtful) == 7
    assert scheduled_length(searched, doubtful) == 7  # nothing is known yet
    assert searched.after(make_round(0, 0, 0)) == searched


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), max_size=8), tables)
def test_one_request_is_asked_left_to_right_with_the_same_result(confidence, seconds):
    schedule = HardwareAware(seconds)
    survival = survival_of(confidence, len(confidence))
    assert [scheduled_length(schedule, survival)] == schedule.lengths([survival])


@settings(deadline=None)
@given(st.lists(survivals, min_size=1, max_size=4), tables)
def test_algorithm_1_admits_the_likeliest_while_the_rate_rises(drafts, seconds):
    """Against the algorithm followed step by step: one draft more, of the request whose next is likeliest."""
    schedule, lengths = HardwareAware(seconds), [0] * len(drafts)
    while waiting := [r for r, s in enumerate(drafts) if lengths[r] < len(s) - 1]:
        best = max(waiting, key=lambda r: drafts[r][lengths[r] + 1])
        more = [n + (r == best) for r, n in enumerate(lengths)]
        if rate(schedule, drafts, more) <= rate(schedule, drafts, lengths):
            break
        lengths = more
    assert rate(schedule, drafts, schedule.lengths(drafts)) == rate(schedule, drafts, lengths)


@settings(deadline=None, max_examples=50)
@given(st.lists(survivals, min_size=1, max_size=3), tables)
def test_the_global_search_is_best_of_all_lengths(drafts, seconds):
    for schedule in (Retrospective(seconds), Delayed(seconds)):
        found = rate(schedule, drafts, schedule.lengths(drafts))
        assert found == pytest.approx(max(rate(schedule, drafts, n) for n in product(*(range(len(s)) for s in drafts))))


def test_a_request_gets_less_where_more_share_the_step():
    """With a cost in proportion beyond a few tokens, R requests of equal drafts verify ever fewer each."""
    step = Curve((1, 8, 64), (1.0, 1.1, 8.0), (1.0, 1.1, 8.0), (1.0, 1.1, 8.0), repeats=9)
    mean = [np.mean(HardwareAware(step).lengths([survival_of([0.8] * 7, 7)] * requests)) for requests in (1, 2, 4, 16)]
    assert mean == sorted(mean, reverse=True) and mean[0] == 7 and mean[-1] < 1


def make_round(drafted, scheduled, accepted, confidence=None):
    """A Round of ``drafted`` tokens, of which a schedule sees only these."""
    tokens = {"drafted": [0] * drafted, "committed": [0] * (accepted + 1)}
    return replace(NO_DRAFT, scheduled=scheduled, confidence=confidence, accepted=accepted, **tokens)


def costs(verify, draft=1.5):
    """A drafter of 7 whose pass takes ``draft``."""
    return Costs(Curve((0, 1, 7), *[(0.01, draft, draft + 0.5)] * 3, repeats=9), verify, Line(0.2, 0.0), 7)


def play(auto, alphas, rounds, rng, head=False):
    """Drafted lengths, tokens and seconds of ``rounds`` rounds; ``alphas(round)``: the chance at every position."""
    lengths, tokens, seconds = [], 0, 0.0
    for i in range(rounds):
        chances = [alphas(i)] * auto.max_draft
        confidence = chances if head else None
        n = scheduled_length(auto, survival_of(confidence, len(chances)))
        accepted = next((k for k in range(n) if rng.random() >= chances[k]), n)
        lengths.append(len(chances))
        tokens, seconds = tokens + accepted + 1, seconds + auto.costs.besides[len(chances)] + auto.costs.passes[n]
        auto = auto.after(make_round(len(chances), n, accepted, confidence))
    return lengths, tokens, seconds


@pytest.mark.parametrize("head", [False, True])
def test_auto_is_not_trapped_by_a_staircase(head):
    """There every draft of 3 or more pays, and none of 1 does."""
    lengths, tokens, seconds = play(Auto(costs(STAIRCASE)), lambda i: 0.55, 1000, np.random.default_rng(0), head)
    assert np.mean(np.array(lengths) >= 3) > 0.8
    assert tokens / seconds > 1.15 / costs(STAIRCASE).round(0)  # 1.28 would be perfect


@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.6, 0.8, 0.95])
def test_auto_comes_near_the_best_static_length(alpha, head):
    known = costs(BUS)
    best = max(sum(alpha**k for k in range(n + 1)) / known.round(n) for n in range(8))
    _, tokens, seconds = play(Auto(known), lambda i: alpha, 2000, np.random.default_rng(1), head)
    assert tokens / seconds > 0.93 * best


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.7, 0.9, 0.97])
def test_auto_tries_what_only_very_good_drafts_would_pay_for(alpha):
    """A pass over two tokens costs as much as one over eight, as on an H100 whose host cannot keep up."""
    step = costs(Curve((1, 2, 8), *[(2.2, 6.4, 6.4)] * 3, repeats=9), draft=3.0)
    assert OPTIMISM < step.break_even < 0.9
    best = max(sum(alpha**k for k in range(n + 1)) / step.round(n) for n in range(8))
    lengths, tokens, seconds = play(Auto(step), lambda i: alpha, 2000, np.random.default_rng(1))
    assert lengths[0] == 7 and tokens / seconds > 0.93 * best


def test_auto_asks_no_perfection_of_a_drafter():
    """With the reference BLAS a block of seven costs as much as eight plain rounds; not even one is tried."""
    openblas, reference = (load_traces()[f"lab-float32-amd-epyc-{name}"].rounds for name in ("openblas", "reference"))
    assert openblas["dspark"].break_even < OPTIMISM and Auto(openblas["dspark"]).max_draft == 7
    assert reference["dspark"].break_even > 0.9 and Auto(reference["dspark"]).max_draft == 0
    assert Auto(reference["lookup"]).max_draft == 1  # which costs nothing to draft


def test_auto_shortens_where_every_token_costs_the_same():
    lengths, *_ = play(Auto(costs(TAXI)), lambda i: 0.9, 50, np.random.default_rng(2))
    assert set(lengths) == {0} and costs(TAXI).break_even == np.inf  # not even a perfect draft would pay
    cheaper = costs(Line(5.0, 2.0))
    bus, between = (
        np.mean(play(Auto(c), lambda i: 0.7, 400, np.random.default_rng(3))[0]) for c in (costs(BUS), cheaper)
    )
    assert 0 < between < bus


def test_auto_decodes_plainly_where_drafts_fail_and_tries_again():
    rng = np.random.default_rng(4)
    lengths, *_ = play(Auto(costs(BUS)), lambda i: 0.0 if i < 200 else 0.95, 400, rng)
    failing, later = np.array(lengths[:200]), np.array(lengths[260:])
    assert lengths[0] >= 6  # it begins with hope
    assert 3 <= np.count_nonzero(failing) < 30 and failing[10:].max() <= 7
    assert np.mean(later) > 4


@pytest.mark.parametrize("misses, goes_on", [(1, True), (12, False)])
def test_auto_is_put_off_by_many_misses_and_not_by_one(misses, goes_on):
    auto = Auto(costs(Line(6.7, 0.8), draft=3.5))  # about what two CPU cores need for the lab pair
    for _ in range(misses):
        auto = auto.after(make_round(auto.max_draft, auto.max_draft, 0))
    assert (auto.max_draft > 0) == goes_on


def test_auto_is_put_off_less_by_a_miss_that_was_not_foretold():
    """A head that was sure of all seven makes a first miss a mischance, also where only very good drafts pay."""
    known = costs(Curve((1, 2, 8), *[(2.2, 6.4, 6.4)] * 3, repeats=9), draft=3.0)
    sure, doubtful, headless = (
        Auto(known).after(make_round(7, 7, 0, confidence)) for confidence in ([0.99] * 7, [0.3] * 7, None)
    )
    assert sure.max_draft == 7 and doubtful.max_draft == headless.max_draft == 0


def test_auto_counts_what_happened_and_what_was_foretold_alike():
    auto = Auto(costs(BUS)).after(make_round(4, 4, 2, [0.8, 0.5, 0.5, 0.1]))
    expected = np.array([1.0, 0.8, 0.4, 0.2, 0.02])  # the chance to get as far as each position, and beyond the last
    happened = np.array([1, 1, 1, 0, 0])
    both = WEIGHT * (expected + happened)
    assert [p.tried for p in auto.seen] == pytest.approx([*both[:4], 0, 0, 0])
    assert [p.accepted for p in auto.seen] == pytest.approx([*both[1:], 0, 0, 0])
    headless = Auto(costs(BUS)).after(make_round(4, 4, 2))
    assert [p.tried for p in headless.seen] == [1, 1, 1, 0, 0, 0, 0]
    assert [p.accepted for p in headless.seen] == [1, 1, 0, 0, 0, 0, 0]


OFTEN = (Position(asked=30.0, admitted=24.0, tried=30.0, accepted=24.0),) * 7  # every fifth draft cut, at any position
NEVER = (Position(asked=30.0, admitted=30.0, tried=30.0, accepted=24.0),) * 7


def test_auto_cuts_by_what_was_known_before_the_block_was_drawn():
    """Its plan, lengths and bars, is fixed; admit() only compares, so no token of the draft can move a bar."""
    auto = Auto(costs(BUS, draft=3.0), OFTEN)
    length, reads, bars = auto.plan
    assert length == auto.max_draft == len(bars) == 7 and reads and auto.reads_draft
    admitted, accepted = np.cumprod(auto.estimates, axis=0).T
    pass_seconds = 4.5 + 0.5 * admitted.sum()
    price = (1 + accepted.sum()) / (auto.costs.besides[7] + pass_seconds)  # tokens a second, as expected
    last = price * 0.5
    assert bars[-1] == pytest.approx(last)
    ahead = [price * 0.5, price * 0.5 * 2 / (1 + auto.estimates[6][1])]  # one more, or two
    assert bars[5] == pytest.approx(min(ahead))
    assert scheduled_length(auto, survival_of([0.9, 0.9, last, 0.9, 0.9, 0.9, 0.9], 7)) == 2
    assert scheduled_length(auto, survival_of(None, 7)) == 7


@pytest.mark.parametrize("seen, wait, reads", [(OFTEN, 0.2, True), (OFTEN, 2.0, False), (NEVER, 0.2, False)])
def test_auto_waits_for_a_draft_where_cuts_earn_the_wait(seen, wait, reads):
    """Of seven tokens at .5 each more than 3 are cut from OFTEN's drafts."""
    auto = Auto(replace(costs(BUS, draft=3.0), wait=wait), seen)
    assert auto.reads_draft == reads and auto.max_draft > 0


def test_auto_learns_from_drafts_verified_unread_how_many_it_would_have_cut():
    auto = Auto(replace(costs(BUS, draft=3.0), wait=0.2))
    assert not auto.reads_draft  # nothing was seen
    doubted = auto.after(make_round(7, 7, 5, [0.9] * 5 + [0.01] * 2))
    assert [p.asked for p in doubted.seen] == [1] * 6 + [0] and [p.admitted for p in doubted.seen] == [1] * 5 + [0] * 2
    for _ in range(12):
        auto = auto.after(make_round(auto.max_draft, auto.max_draft, 3, ([0.99] * 3 + [0.01] * 4)[: auto.max_draft]))
    assert auto.reads_draft


@given(st.lists(st.floats(0.5, 9), min_size=8, max_size=8), st.lists(st.floats(0.1, 9), min_size=8, max_size=8))
def test_auto_never_cuts_what_is_certain(drafts, passes):
    """However the measured seconds jump about; so a draft that it does not read is verified whole."""
    curves = [
        Curve(tuple(counts), *[tuple(s)] * 3, repeats=9) for counts, s in ((range(8), drafts), (range(1, 9), passes))
    ]
    auto = Auto(Costs(*curves, Line(0.2, 0.0), 7), OFTEN)
    assert scheduled_length(auto, survival_of(None, auto.max_draft)) == auto.max_draft


UNREAD = [WholeDraft(), Cap(3), Cap(9), Delayed(STAIRCASE), Delayed(STAIRCASE, planned=2)]


@pytest.mark.parametrize("schedule", UNREAD)
@given(st.lists(st.floats(0, 1), max_size=8))
def test_a_schedule_that_does_not_read_drafts_admits_the_same_of_any(schedule, confidence):
    """But "auto", which in one round does and in another does not."""
    assert not schedule.reads_draft
    n = len(confidence)
    assert scheduled_length(schedule, survival_of(confidence, n)) == scheduled_length(schedule, survival_of(None, n))
