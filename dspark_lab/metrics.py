"""What a run of Rounds amounts to: accepted length, acceptance by position, time. From Rounds alone, never from models.

Three ways of counting acceptance are about, and they differ: per round (`mean_accepted_length`, the target's own token
included), per position given that it was reached (`conditional_acceptance`), and per position from the round's start
(`survival`). A position that a cap, a threshold or ``max_tokens`` kept from being verified was not rejected: nobody
asked. It is *censored*, and counts neither for nor against.

Intervals are at 95 %. They take rounds for independent, which rounds of one text are not quite; a benchmark therefore
bootstraps over prompts instead (`bootstrap_ratio`).
"""

from collections import Counter
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist, fmean, stdev

import numpy as np

Z = NormalDist().inv_cdf(0.975)  # a 95 % interval reaches this many standard errors to each side
RESAMPLES_AT_ONCE = 500  # bounds the memory of a bootstrap over thousands of pairs


@dataclass(frozen=True)
class Rate:
    """A probability at ``position`` (from 1), estimated: ``estimate`` and its 95 % interval ``low`` to ``high``.

    ``trials``: rounds in which the position was verified and all before it were accepted; ``accepted``: those of them
    in which it was accepted too.
    """

    position: int
    estimate: float
    low: float
    high: float
    trials: int
    accepted: int


@dataclass(frozen=True)
class Mean:
    """The mean over ``trials`` values at ``position`` (from 1), with its 95 % interval ``low`` to ``high``."""

    position: int
    estimate: float
    low: float
    high: float
    trials: int


@dataclass(frozen=True)
class Ratio:
    """A ratio over ``pairs`` pairs, with its 95 % interval ``low`` to ``high``."""

    estimate: float
    low: float
    high: float
    pairs: int


@dataclass(frozen=True)
class Endings:
    """How many rounds ended why; together they are all rounds.

    ``rejected``: by the position (from 1) of the rejection, sorted; ``whole_draft``: everything drafted was accepted;
    ``cut_by_schedule``: everything verified was accepted, but the schedule had cut the draft; ``stopped``: a stop token
    inside the draft; ``no_draft``: nothing was proposed.
    """

    rejected: dict[int, int]
    whole_draft: int
    cut_by_schedule: int
    stopped: int
    no_draft: int


def mean_accepted_length(rounds):
    """The mean of τ: tokens committed per pass of the target, its own included. Plain decoding has 1."""
    return fmean(r.accepted_length for r in some(rounds))


def conditional_acceptance(rounds):
    """α_k by position: P(k accepted, given 1..k-1 accepted), a Rate for each position that was ever verified so.

    A trial is a round with ``scheduled`` >= k and ``accepted`` >= k - 1; positions behind a stop token inside a draft
    were verified, and count. Wilson intervals.
    """
    rates = []
    while True:
        k = len(rates) + 1
        tried = [r.accepted >= k for r in rounds if r.scheduled >= k and r.accepted >= k - 1]
        if not tried:
            return rates
        trials, accepted = len(tried), sum(tried)
        rates.append(Rate(k, accepted / trials, *wilson(accepted / trials, trials), trials, accepted))


def survival(rounds):
    """a_k by position: P(1..k all accepted), the product of the conditional rates (Kaplan and Meier), as Rates.

    Without censoring it is the plain proportion of rounds with ``accepted`` >= k. With a cap or ``max_tokens``, which
    know nothing of the round's tokens, it still estimates what the whole draft would have done. Censoring by a
    confidence threshold is *informative*: the positions left out are those that would have fared worse, and survival
    then describes only the admitted.

    The interval is Wilson's at the number of trials that would give a plain proportion the variance that Greenwood's
    formula gives this product. ``trials`` and ``accepted`` count rounds at position k, as in `conditional_acceptance`.
    """
    rates, reached, greenwood = [], 1.0, 0.0
    for rate in conditional_acceptance(rounds):
        estimate = reached * rate.estimate
        trials = effective_trials(rate, reached, greenwood)
        rates.append(Rate(rate.position, estimate, *wilson(estimate, trials), rate.trials, rate.accepted))
        reached = estimate
        if rate.accepted:
            greenwood += (rate.trials - rate.accepted) / (rate.trials * rate.accepted)
    return rates


def effective_trials(rate, reached, greenwood):
    """The n at which S (1 - S) / n is Greenwood's variance of S, the survival of ``rate``'s position; not always whole.

    ``reached`` is the survival of the position before, ``greenwood`` the sum over all before of rejected / (trials *
    accepted). The variance is S^2 times that sum with this position's term; written with S = ``reached`` * α and
    divided through by α, the quotient also holds where α is 0. Where nothing was ever rejected the variance is 0 for
    any n, and the trials at this position are taken, the fewest of all.
    """
    estimate = reached * rate.estimate
    if estimate == 1:
        return rate.trials
    return (1 - estimate) / (reached * (rate.estimate * greenwood + (1 - rate.estimate) / rate.trials))


def wilson(estimate, trials):
    """Wilson's 95 % interval (low, high) of a proportion seen in ``trials`` trials, which need not be a whole number.

    Equal to ``scipy.stats.binomtest(...).proportion_ci(method="wilson")`` where the counts are whole.
    """
    centre = estimate + Z**2 / (2 * trials)
    spread = Z * sqrt(estimate * (1 - estimate) / trials + (Z / (2 * trials)) ** 2)
    scale = 1 + Z**2 / trials
    return (centre - spread) / scale if estimate > 0 else 0.0, (centre + spread) / scale if estimate < 1 else 1.0


def overlap_by_position(rounds):
    """The mean of the recorded overlaps sum(min(p, q)) at each verified position, as Means with normal intervals.

    Every verified position counts, also one behind a rejection, where p and q continue a draft that was not kept;
    `conditional_acceptance` sees survivors only, so beyond position 1 the two differ. At temperature 0 an overlap is
    0 or 1, and Wilson's intervals there are the better ones. A single value says nothing of its spread: 0 to 1.
    """
    means = []
    while overlaps := [min(1.0, r.overlap[len(means)]) for r in rounds if r.scheduled > len(means)]:
        estimate, n = fmean(overlaps), len(overlaps)
        reach = Z * stdev(overlaps) / sqrt(n) if n > 1 else 1.0
        means.append(Mean(len(means) + 1, estimate, max(0.0, estimate - reach), min(1.0, estimate + reach), n))
    return means


def rejections(rounds):
    """How the rounds ended, by cause and, for rejections, by position: Endings."""
    causes, rejected = Counter(), Counter()
    for r in rounds:
        if r.ending == "correction":
            rejected[r.accepted + 1] += 1
        elif not r.draft_length:
            causes["no_draft"] += 1
        elif r.ending == "stop":
            causes["stopped"] += 1
        else:
            causes["whole_draft" if r.scheduled == r.draft_length else "cut_by_schedule"] += 1
    names = ("whole_draft", "cut_by_schedule", "stopped", "no_draft")
    return Endings(dict(sorted(rejected.items())), **{name: causes[name] for name in names})


def acceptance_rate(rounds):
    """The acceptance rate as the paper counts it: tokens committed / tokens verified, the target's own in both.

    Footnote 3: an accepted length of 6.11 with blocks of 7 is 6.11 / 8 = 76.4 %. A drafter that proposes nothing scores
    100 %, so do not rank drafters by it; `conditional_acceptance` is the rate of the drafted tokens themselves.
    """
    return sum(r.accepted_length for r in some(rounds)) / sum(r.scheduled + 1 for r in rounds)


def tokens_per_second(rounds):
    """Tokens committed per second of the rounds' own time; the prompt's pass is not in it."""
    seconds = sum(r.seconds for r in some(rounds))
    if seconds <= 0:
        raise ValueError(f"the rounds took {seconds} seconds in all; give rounds whose times were recorded")
    return sum(r.accepted_length for r in rounds) / seconds


def seconds_by_part(rounds):
    """Where the time went: a dict of seconds in all for "draft", "verify" and "other"."""
    return {part: sum(getattr(r, f"{part}_seconds") for r in rounds) for part in ("draft", "verify", "other")}


def bootstrap_ratio(a, b, rng, average="median", resamples=9999):
    """``a`` over ``b``, measured in pairs (prompt by prompt): a Ratio with a percentile bootstrap interval.

    ``average``: "median" is the median of the pairs' ratios a_i / b_i, which an outlier hardly moves; "mean" is
    mean(a) / mean(b), in which each pair weighs by its size (tokens over rounds gives an accepted length). Whole
    pairs are drawn again, so what moves both members of a pair cancels. ``rng`` is a numpy Generator.

    Raises ValueError unless there are at least two pairs of finite positive numbers.
    """
    from scipy.stats import bootstrap  # slow to import, and only benchmarks need it

    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.ndim != 1 or a.shape != b.shape or len(a) < 2:
        raise ValueError(f"the samples have shapes {a.shape} and {b.shape}; give two lists of one length, at least 2")
    if not (np.isfinite([a, b]).all() and (a > 0).all() and (b > 0).all()):
        raise ValueError("a ratio needs finite numbers above 0; leave out the pairs that hold others")
    if average not in RATIOS:
        raise ValueError(f"average is {average!r}; give one of {', '.join(map(repr, RATIOS))}")
    settings = {"paired": True, "vectorized": True, "method": "percentile", "batch": RESAMPLES_AT_ONCE}
    drawn = bootstrap((a, b), RATIOS[average], n_resamples=resamples, rng=rng, **settings).confidence_interval
    return Ratio(float(RATIOS[average](a, b)), float(drawn.low), float(drawn.high), len(a))


RATIOS = {
    "median": lambda a, b, axis=-1: np.median(a / b, axis=axis),
    "mean": lambda a, b, axis=-1: np.mean(a, axis=axis) / np.mean(b, axis=axis),
}


def some(rounds):
    """``rounds``, of which there must be some for a mean or a rate to exist."""
    if not rounds:
        raise ValueError("there are no rounds; give the Rounds of at least one generation")
    return rounds
