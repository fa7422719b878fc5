"""Metrics against hand-worked examples, brute-force recounts, and what wrong ways of counting would give."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, norm

from dspark_lab.metrics import (
    Endings,
    acceptance_rate,
    bootstrap_ratio,
    conditional_acceptance,
    mean_accepted_length,
    overlap_by_position,
    rejections,
    seconds_by_part,
    survival,
    tokens_per_second,
)
from dspark_lab.rounds import Round

Z = norm.ppf(0.975)
Z2 = Z**2


def make_round(drafted, scheduled, accepted, *, committed=None, overlap=0.5, seconds=(0.1, 0.2, 0.3)):
    """A Round of ``drafted`` tokens, ``scheduled`` verified and ``accepted`` kept; ``committed`` fewer after a stop."""
    committed = accepted + 1 if committed is None else committed
    draft, verify, other = seconds
    return Round(
        anchor=0,
        drafted=[0] * drafted,
        draft_probs=[0.5] * drafted,
        scheduled=scheduled,
        target_probs=[0.5] * scheduled,
        overlap=[overlap] * scheduled,
        confidence=None,
        accepted=accepted,
        committed=[0] * committed,
        ending="stop" if committed <= accepted else "bonus" if accepted == scheduled else "correction",
        draft_seconds=draft,
        verify_seconds=verify,
        other_seconds=other,
    )


@st.composite
def a_round(draw, whole=False, block=5):
    """Any consistent Round; with ``whole``, one of a full block of which everything was verified."""
    drafted = block if whole else draw(st.integers(0, block))
    scheduled = drafted if whole else draw(st.integers(0, drafted))
    accepted = draw(st.integers(0, scheduled))
    return make_round(drafted, scheduled, accepted, committed=draw(st.integers(1, accepted + 1)))


def close(a, b):
    """Whether two numbers agree to float error."""
    return a == pytest.approx(b, abs=1e-9)


# Ten rounds with a hand count. Verified: position 1 in nine of them, position 2 in seven, position 3 in four.
TEN = [
    make_round(3, 3, 3),
    make_round(3, 3, 1),
    make_round(3, 3, 0),
    make_round(3, 3, 2),
    make_round(3, 2, 2),
    make_round(3, 2, 2),
    make_round(3, 2, 0),
    make_round(3, 1, 1),
    make_round(1, 1, 1),
    make_round(0, 0, 0),
]


def test_hand_worked_rounds():
    rates = conditional_acceptance(TEN)
    assert [(r.position, r.accepted, r.trials) for r in rates] == [(1, 7, 9), (2, 4, 5), (3, 1, 2)]
    assert [r.estimate for r in survival(TEN)] == pytest.approx([7 / 9, 7 / 9 * 4 / 5, 7 / 9 * 4 / 5 * 1 / 2])
    assert mean_accepted_length(TEN) == pytest.approx((4 + 2 + 1 + 3 + 3 + 3 + 1 + 2 + 2 + 1) / 10)
    assert acceptance_rate(TEN) == pytest.approx(22 / (4 * 4 + 3 * 3 + 2 * 2 + 1))
    assert rejections(TEN) == Endings({1: 2, 2: 1, 3: 1}, whole_draft=2, cut_by_schedule=3, stopped=0, no_draft=1)


def test_counting_the_censored_as_rejected_gives_another_number():
    wrong = [sum(r.accepted >= k for r in TEN) / sum(r.draft_length > 0 for r in TEN) for k in (1, 2, 3)]
    assert wrong == pytest.approx([7 / 9, 4 / 9, 1 / 9])
    for rate, share in zip(survival(TEN)[1:], wrong[1:]):
        assert rate.estimate > share + 0.15


def test_a_cap_leaves_the_estimate_of_survival_where_it_was():
    """Half the rounds are capped at 2, whatever they hold: survival still estimates the whole draft's."""
    rng = np.random.default_rng(0)
    alpha, rounds = np.array([0.8, 0.7, 0.6, 0.5]), []
    for i in range(20_000):
        lucky = int(np.cumprod(rng.random(4) < alpha).sum())
        scheduled = 2 if i % 2 else 4
        rounds.append(make_round(4, scheduled, min(lucky, scheduled)))
    rates = survival(rounds)
    assert [r.estimate for r in rates] == pytest.approx(np.cumprod(alpha), abs=0.02)
    assert all(r.low < truth < r.high for r, truth in zip(rates, np.cumprod(alpha)))
    as_rejected = sum(r.accepted >= 3 for r in rounds) / len(rounds)
    assert as_rejected < rates[2].low - 0.1


def test_a_threshold_makes_survival_that_of_the_admitted():
    """Informative censoring: the schedule admits position 2 where the drafter is surer, and rightly so."""
    sure, unsure = [make_round(2, 2, 2)] * 9 + [make_round(2, 2, 1)], [make_round(2, 1, 1)] * 10
    assert survival(sure + unsure)[1].estimate == pytest.approx(0.9)


@given(st.lists(a_round(), max_size=30))
def test_rates_equal_a_brute_force_recount(rounds):
    rates, product = conditional_acceptance(rounds), 1.0
    survivals = survival(rounds)
    for k in range(1, 6):
        trials = accepted = 0
        for r in rounds:
            if r.scheduled >= k and r.accepted >= k - 1:
                trials, accepted = trials + 1, accepted + (r.accepted > k - 1)
        assert (trials > 0) == (len(rates) >= k)
        if not trials:
            continue
        rate, alive = rates[k - 1], survivals[k - 1]
        interval = binomtest(accepted, trials).proportion_ci(method="wilson")
        assert (rate.position, rate.trials, rate.accepted) == (k, trials, accepted)
        assert close(rate.estimate, accepted / trials) and close((rate.low, rate.high), tuple(interval))
        product *= accepted / trials
        assert (alive.trials, alive.accepted) == (trials, accepted) and close(alive.estimate, product)
        assert 0 <= alive.low <= alive.estimate <= alive.high <= 1


@given(st.lists(a_round(whole=True), min_size=1, max_size=30))
def test_survival_without_censoring_is_the_plain_proportion_with_its_wilson_interval(rounds):
    for rate in survival(rounds):
        alive = sum(r.accepted >= rate.position for r in rounds)
        interval = binomtest(alive, len(rounds)).proportion_ci(method="wilson")
        assert close(rate.estimate, alive / len(rounds)) and close((rate.low, rate.high), tuple(interval))


@given(st.lists(a_round(), min_size=1, max_size=30))
def test_the_width_of_survivals_interval_comes_from_greenwood(rounds):
    """Solve Wilson's interval for its n, and compare S (1 - S) / n with Greenwood's formula as textbooks print it."""
    factor = 0.0
    for rate in survival(rounds):
        if rate.accepted == 0:
            break  # the textbook's formula divides by zero here
        factor += (rate.trials - rate.accepted) / (rate.trials * rate.accepted)
        if 0 < rate.estimate < 1:
            centre = (rate.low + rate.high) / 2  # = (S + Z^2 / 2n) / (1 + Z^2 / n), so that:
            n = Z2 * (0.5 - centre) / (centre - rate.estimate) if abs(rate.estimate - 0.5) > 1e-3 else None
            variance = rate.estimate**2 * factor
            assert n is None or rate.estimate * (1 - rate.estimate) / n == pytest.approx(variance, rel=1e-6)


def test_survival_at_zero_and_one_keeps_an_interval():
    never, always = survival([make_round(1, 1, 0)] * 8), survival([make_round(2, 2, 2)] * 5 + [make_round(2, 1, 1)] * 3)
    assert (never[0].estimate, never[0].low) == (0, 0) and close(never[0].high, Z2 / (8 + Z2))
    assert (always[1].estimate, always[1].high) == (1, 1) and close(always[1].low, 5 / (5 + Z2))


@given(st.lists(a_round(), max_size=30))
def test_endings_count_every_round_once(rounds):
    found = rejections(rounds)
    assert found.rejected == {
        k: n
        for k in range(1, 6)
        if (n := sum(r.ending != "stop" and r.accepted == k - 1 < r.scheduled for r in rounds))
    }
    assert found.no_draft == sum(not r.drafted for r in rounds)
    assert found.stopped == sum(len(r.committed) <= r.accepted for r in rounds)
    total = sum(found.rejected.values()) + found.whole_draft + found.cut_by_schedule + found.stopped + found.no_draft
    assert total == len(rounds)


def test_a_round_cut_to_nothing_is_the_schedules_doing_and_a_stop_the_texts():
    rounds = [make_round(4, 0, 0), make_round(4, 4, 4, committed=2), make_round(4, 4, 2, committed=1)]
    assert rejections(rounds) == Endings({}, whole_draft=0, cut_by_schedule=1, stopped=2, no_draft=0)


def test_the_papers_acceptance_rate_counts_the_targets_own_token():
    block = [make_round(7, 7, 5)] * 89 + [make_round(7, 7, 6)] * 11  # accepted length 6.11, as on GSM8K
    assert mean_accepted_length(block) == pytest.approx(6.11) and acceptance_rate(block) == pytest.approx(
        0.764, abs=5e-4
    )
    assert acceptance_rate([make_round(0, 0, 0)] * 3) == 1


def test_overlap_by_position_is_the_mean_of_what_was_recorded():
    rounds = [make_round(3, 2, 0, overlap=x) for x in (0.2, 0.4, 0.9)] + [make_round(3, 3, 3, overlap=0.5)]
    first, second, third = overlap_by_position(rounds)
    assert (first.trials, second.trials, third.trials) == (4, 4, 1)
    error = np.std([0.2, 0.4, 0.9, 0.5], ddof=1) / 2
    assert close(first.estimate, 0.5) and close((first.low, first.high), (0.5 - Z * error, 0.5 + Z * error))
    assert (third.low, third.estimate, third.high) == (0, 0.5, 1)  # one value: nothing is known of its spread
    above = overlap_by_position([make_round(1, 1, 1, overlap=1.0000001)] * 2)  # float32 sums overshoot
    assert (above[0].estimate, above[0].high) == (1, 1)


def test_time():
    rounds = [make_round(3, 3, 1), make_round(3, 3, 3, seconds=(0.2, 0.1, 0.0))]
    assert tokens_per_second(rounds) == pytest.approx(6 / 0.9)
    assert seconds_by_part(rounds) == pytest.approx({"draft": 0.3, "verify": 0.3, "other": 0.3})
    with pytest.raises(ValueError, match="times were recorded"):
        tokens_per_second([make_round(1, 1, 1, seconds=(0, 0, 0))])


@pytest.mark.parametrize("metric", [mean_accepted_length, acceptance_rate, tokens_per_second])
def test_a_mean_of_no_rounds_is_refused(metric):
    with pytest.raises(ValueError, match="there are no rounds"):
        metric([])


def test_what_is_listed_by_position_is_empty_without_rounds():
    assert conditional_acceptance([]) == survival([]) == overlap_by_position([]) == []
    assert rejections([]) == Endings({}, 0, 0, 0, 0)


def test_bootstrap_keeps_pairs_together():
    """Prompts differ tenfold and a is always 1.2 b: paired, the ratio is certain; unpaired, it would not be."""
    b = np.random.default_rng(1).uniform(1, 10, 40)
    for average in ("median", "mean"):
        ratio = bootstrap_ratio(1.2 * b, b, np.random.default_rng(2), average)
        assert (ratio.estimate, ratio.low, ratio.high) == pytest.approx((1.2, 1.2, 1.2)) and ratio.pairs == 40
    shuffled = bootstrap_ratio(1.2 * b, np.random.default_rng(3).permutation(b), np.random.default_rng(2), "mean")
    assert shuffled.high - shuffled.low > 0.1


@pytest.mark.parametrize("average", ["median", "mean"])
def test_bootstrap_agrees_with_resampling_by_hand(average):
    rng = np.random.default_rng(4)
    b = rng.uniform(1, 10, 30)
    a = b * rng.lognormal(0.2, 0.3, 30)
    found = bootstrap_ratio(a, b, np.random.default_rng(5), average)
    assert found == bootstrap_ratio(a, b, np.random.default_rng(5), average)
    by_hand = []
    for _ in range(4000):
        i = rng.integers(0, 30, 30)
        by_hand.append(np.median(a[i] / b[i]) if average == "median" else a[i].sum() / b[i].sum())
    expected = np.median(a / b) if average == "median" else a.sum() / b.sum()
    assert found.estimate == pytest.approx(expected)
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(by_hand, [2.5, 97.5])), abs=0.04)


@pytest.mark.parametrize(
    ("a", "b", "average", "message"),
    [
        ([1, 2], [1, 2, 3], "median", "shapes"),
        ([1], [1], "median", "at least 2"),
        ([1, 2], [1, 0], "median", "above 0"),
        ([1, float("nan")], [1, 2], "median", "finite"),
        ([1, 2], [1, 2], "mode", "'median', 'mean'"),
    ],
)
def test_bootstrap_refuses_what_has_no_ratio(a, b, average, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_ratio(a, b, np.random.default_rng(0), average)


def test_metrics_know_no_models():
    """Imported alone, without the package's own start-up, the module loads no MLX, and scipy only once it is needed."""
    script = (
        "import importlib.util, sys; spec = importlib.util.spec_from_file_location('metrics', sys.argv[1]); "
        "module = sys.modules['metrics'] = importlib.util.module_from_spec(spec); spec.loader.exec_module(module); "
        "print(sorted({n.partition('.')[0] for n in sys.modules} & {'mlx', 'mlx_lm', 'scipy', 'transformers'}))"
    )
    path = sys.modules["dspark_lab.metrics"].__file__
    found = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
