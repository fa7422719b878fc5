"""Confidence that means what it says: how far off it is, and the temperatures that mend it (paper, section 3.2.1).

Two scores are judged, each by what the accept rule then did:

- *conditional*, c_k: the chance that position k is accepted once 1..k-1 are. It is put to the test only in rounds in
  which those were accepted; behind a rejection p and q continue a draft that was not kept, and nobody asked.
- *cumulative*, a_k = c_1 * ... * c_k: the chance that 1..k are all accepted. Every round whose k-th position was
  verified tests it: a rejection before k is an answer too, and the answer is no.

A position that was not verified is censored, and counts for neither. That is fair where a cap or ``max_tokens`` left it
out, but not where a confidence threshold did, which looked at the very score: calibrate on whole drafts.

Scores and outcomes are float64 arrays (rounds, γ), one column a position, NaN where there is no evidence.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dspark_lab.checkpoint import read_config
from dspark_lab.drafters.config import check_temperatures, check_weights
from dspark_lab.metrics import wilson

BINS = 10  # of equal width
GRID = np.geomspace(0.1, 10, 101)  # temperatures to choose from, 1 among them; each is 1.047 times the one before
RIDGE = 0.01  # what a square of a weight's way from the head's own costs, in nats, per standard deviation of its input
LISTS = {"confidence_temperatures": 1.0, "confidence_temperatures_greedy": 0.0}  # key in config.json -> temperature
WEIGHTS = "confidence_weights_greedy"  # key in config.json of what `fit_weights` finds


@dataclass(frozen=True)
class Evidence:
    """What ``rounds`` drafts were given and what became of them.

    ``logits`` (rounds, γ): of the confidence c_k as it stood, so of an uncalibrated drafter if temperatures are to be
    fitted; ``overlap`` (rounds, γ): sum(min(p, q)); both NaN where a position was not verified. ``accepted`` (rounds,):
    how many drafted tokens the rule accepted.
    """

    logits: np.ndarray
    overlap: np.ndarray
    accepted: np.ndarray

    @classmethod
    def of(cls, rounds):
        """The evidence of Rounds with a confidence. Raises ValueError if there is none."""
        drafts = [r for r in rounds if r.scheduled]
        if not drafts or any(r.confidence is None for r in drafts):
            raise ValueError("there is no confidence to calibrate; give rounds of a confidence head")
        scores = [r.confidence[: r.scheduled] for r in drafts]
        return cls.from_lists(map(logit, scores), [r.overlap for r in drafts], [r.accepted for r in drafts])

    @classmethod
    def from_lists(cls, logits, overlap, accepted):
        """The evidence that ``to_lists`` wrote."""
        return cls(padded(list(logits)), padded(list(overlap)), np.asarray(accepted))

    def to_lists(self):
        """Ready for JSON: a list for each round, as long as it was verified, to four decimals."""
        rows = {name: [row[np.isfinite(row)].round(4).tolist() for row in getattr(self, name)] for name in ROWS}
        return {**rows, "accepted": self.accepted.tolist()}


ROWS = ("logits", "overlap")


def padded(rows):
    """Lists of different lengths as an array (rows, longest), with NaN behind the shorter ones."""
    table = np.full((len(rows), max(map(len, rows))), np.nan)
    for line, row in zip(table, rows):
        line[: len(row)] = row
    return table


def logit(probability):
    """log(p / (1 - p)) of float32 probabilities, kept finite where float32 rounded them to 0 or 1."""
    p = np.clip(np.asarray(probability, float), 2.0**-25, 1 - 2.0**-25)
    return np.log(p / (1 - p))


def sigmoid(logits):
    """1 / (1 + exp(-logits))."""
    return 0.5 * (1 + np.tanh(0.5 * logits))


def conditional(evidence, temperatures=1.0):
    """c_k with its logits divided by ``temperatures`` (one, or one a position), and whether k was accepted."""
    score = sigmoid(evidence.logits / temperatures)
    reached = np.arange(score.shape[1]) <= evidence.accepted[:, None]
    return judged(np.where(reached, score, np.nan), evidence)


def cumulative(evidence, temperatures=1.0):
    """a_k = c_1 * ... * c_k, with logits divided by ``temperatures``, and whether 1..k were all accepted."""
    return judged(np.cumprod(sigmoid(evidence.logits / temperatures), axis=1), evidence)


def true_overlap(evidence):
    """sum(min(p, q)), the very chance that c_k is an estimate of, and whether k was accepted: the best score there is.

    Even it does not foretell the outcome, which is a coin's.
    """
    reached = np.arange(evidence.overlap.shape[1]) <= evidence.accepted[:, None]
    return judged(np.where(reached, evidence.overlap, np.nan), evidence)


def judged(score, evidence):
    """``score`` (rounds, γ) and the outcome, 1 or 0, wherever there is a score."""
    outcome = evidence.accepted[:, None] > np.arange(score.shape[1])
    return score, np.where(np.isnan(score), np.nan, outcome)


def seen(score, outcome):
    """``score`` and ``outcome`` of any one shape, flattened, where there is evidence."""
    known = np.isfinite(score)
    return score[known], outcome[known]


def bin_of(score, bins):
    """The number of the bin, of ``bins`` equally wide ones from 0 to 1, that each score falls into."""
    return np.minimum((score * bins).astype(int), bins - 1)


def expected_calibration_error(score, outcome, bins=BINS):
    """ECE: the mean over all evidence of |mean score - mean outcome| in the evidence's bin; NaN without evidence."""
    score, outcome = seen(score, outcome)
    gaps = np.bincount(bin_of(score, bins), score - outcome, bins)
    return float(np.abs(gaps).sum() / len(score)) if len(score) else float("nan")


def auc(score, outcome):
    """The chance that of an accepted and a rejected case the accepted one has the higher score, ties counting half.

    It is the area under the ROC curve, and Mann and Whitney's U over the number of such couples; NaN where all were
    accepted or none was.
    """
    from scipy.stats import mannwhitneyu  # slow to import, and only calibration needs it

    score, outcome = seen(score, outcome)
    accepted, rejected = score[outcome == 1], score[outcome == 0]
    if not (len(accepted) and len(rejected)):
        return float("nan")
    return float(mannwhitneyu(accepted, rejected, method="asymptotic").statistic / len(accepted) / len(rejected))


def brier(score, outcome):
    """The mean squared difference of score and outcome; NaN without evidence."""
    score, outcome = seen(score, outcome)
    return float(np.mean((score - outcome) ** 2)) if len(score) else float("nan")


@dataclass(frozen=True)
class Bin:
    """A bin of a reliability diagram: the ``trials`` whose score lies there, their mean ``score``, and how many of them
    came true, ``outcome``, with its 95 % Wilson interval ``low`` to ``high``."""

    trials: int
    score: float
    outcome: float
    low: float
    high: float


def reliability(score, outcome, bins=BINS):
    """The Bins that hold any evidence, lowest first. A calibrated ``score`` lies inside most of their intervals."""
    score, outcome = seen(score, outcome)
    number = bin_of(score, bins)
    found = []
    for i in np.unique(number):
        mine = number == i
        n, rate = int(mine.sum()), float(outcome[mine].mean())
        found.append(Bin(n, float(score[mine].mean()), rate, *wilson(rate, n)))
    return found


def fit_temperatures(*evidence, grid=GRID, bins=BINS):
    """Sequential temperature scaling: a temperature for each position, in a list.

    Left to right, each is the one of ``grid`` with which the cumulative product up to there, the earlier temperatures
    standing, has the least ECE (paper, section 3.2.1). With several pieces of ``evidence``, say one a domain, it is the
    mean of their ECEs: pooled, one domain's overconfidence would hide another's modesty. Among equals, and where a
    position was never verified, the temperature nearest to 1 is taken.
    """
    if len({e.logits.shape[1] for e in evidence}) != 1:
        raise ValueError(f"drafts have {[e.logits.shape[1] for e in evidence]} positions; give evidence of one drafter")
    outcomes = [cumulative(e)[1] for e in evidence]
    before, fitted = [np.ones(len(e.logits)) for e in evidence], []
    for k in range(evidence[0].logits.shape[1]):

        def products(t, k=k, before=before):
            return [a * sigmoid(e.logits[:, k] / t) for a, e in zip(before, evidence)]

        def error(t, k=k):
            errors = [expected_calibration_error(a, o[:, k], bins) for a, o in zip(products(t), outcomes)]
            return np.nan_to_num(errors).mean(), abs(np.log(t))

        fitted.append(float(min(grid, key=error)))
        before = products(fitted[-1])
    return fitted


def fit_weights(*drafts, start):
    """Weights for greedy drafts in the place of the confidence head's own, as `ConfidenceHead` takes them, to 6 digits.

    Trained towards an overlap of soft distributions, the head is too sure of some greedy drafts and too modest about
    others, which no list of temperatures mends. This is logistic regression, on what the head sees, of whether a
    position was accepted once those before it were. ``drafts``: pieces of evidence of equal weight, say one a domain,
    each ``features`` (rounds, γ, d + r), NaN where a position was not verified, and ``accepted`` (rounds,). ``start``:
    the head's own weights (d + r,) and bias, which RIDGE holds the new ones to.
    """
    from scipy.optimize import minimize

    rows, outcomes, shares = [], [], []
    for features, accepted in drafts:
        positions = np.arange(features.shape[1])
        reached = np.isfinite(features[..., 0]) & (positions <= accepted[:, None])
        place = np.broadcast_to(np.eye(len(positions)), (*reached.shape, len(positions)))
        rows.append(np.concatenate([features, place], axis=-1)[reached])
        outcomes.append((accepted[:, None] > positions)[reached])
        shares.append(np.full(reached.sum(), 1 / reached.sum() / len(drafts)))
    sign, share, width = 2 * np.concatenate(outcomes) - 1, np.concatenate(shares), features.shape[-1]
    scale = np.concatenate([np.std(np.concatenate(rows)[:, :width], axis=0) + 1e-6, np.ones(len(positions))])
    rows, start = np.concatenate(rows) / scale, np.append(start[0], np.full(len(positions), start[1])) * scale

    def loss(w):
        margin, away = sign * (rows @ w), np.where(np.arange(len(w)) < width, w - start, 0)
        slope = rows.T @ (-share * sign * sigmoid(-margin)) + 2 * RIDGE * away
        return share @ np.logaddexp(0, -margin) + RIDGE * away @ away, slope

    found = minimize(loss, start, jac=True, method="L-BFGS-B").x / scale
    return [float(f"{weight:.6g}") for weight in found]


def noise_floor(evidence, temperatures, score, statistic, rng, simulations=200):
    """What ``statistic(score, outcome)``, an ECE say, would be of a perfectly calibrated drafter: (simulations, ...).

    The same confidences, at the same ``temperatures``, in as many rounds, judged by coins that fall as they say: what
    is left is chance alone. ``score``: `conditional` or `cumulative`. Rounds are taken for independent, which
    rounds of one text are not quite, so the true floor lies a little higher.
    """
    chances = sigmoid(evidence.logits / temperatures)
    found = []
    for _ in range(simulations):
        accepted = np.cumprod(rng.random(chances.shape) < chances, axis=1).sum(axis=1)
        found.append(statistic(*score(replace(evidence, accepted=accepted), temperatures)))
    return np.array(found)


def save_calibration(folder, lists):
    """Write ``lists`` (a key of `LISTS`, or WEIGHTS -> numbers) into config.json of the drafter's ``folder``.

    Raises ValueError for another key, another number of positions or weights, a temperature that is not a positive
    number, or a weight that is none.
    """
    config = read_config(Path(folder))
    for key, numbers in lists.items():
        if key not in (*LISTS, WEIGHTS):
            raise ValueError(f"config.json has no list {key!r}; known are {', '.join(LISTS)}, {WEIGHTS}")
        if key == WEIGHTS:
            check_weights(numbers, config["hidden_size"] + config["markov_rank"] + config["block_size"])
        else:
            check_temperatures(key, numbers, config["block_size"])
    path = Path(folder, "config.json")
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps({**config, **lists}, indent=4) + "\n")
    unfinished.replace(path)
