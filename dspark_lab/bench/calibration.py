"""Is confidence right? Rounds gathered on two sets of prompts: a calibration is fitted on one, judged on the other.

The numbers are calibrate.py's; here are the prompts, the rounds, what a cell holds, and the bars that it is held to.
"""

from dataclasses import asdict, replace
from warnings import catch_warnings

import mlx.core as mx
import numpy as np

from dspark_lab import calibrate
from dspark_lab.bench.prompts import heldout_prompts
from dspark_lab.bench.record import finite
from dspark_lab.calibrate import Evidence, auc, brier, expected_calibration_error
from dspark_lab.generate import encode_prompt, stream
from dspark_lab.standins import StandIn, replaced

FURTHER_PROBLEMS = 2000  # generated: the corpus holds out 500, too few where a round commits many tokens
WEIGHT_ROUNDS = 2  # times as many rounds for the weights of greedy confidence: they are many more than temperatures
ENOUGH_AUC, NOTABLE_ECE = 0.7, 0.02  # the bars: a share of what the true overlap reaches; an ECE that must halve


def uncalibrated(drafter):
    """Make ``drafter`` forget its calibration (in place). Raises ValueError for one without a confidence head."""
    if not hasattr(drafter, "confidence_head"):
        raise ValueError(f"mode {drafter.mode} has no confidence head to calibrate; give --mode dspark")
    drafter.config = replace(
        drafter.config, confidence_temperatures=(), confidence_temperatures_greedy=(), confidence_weights_greedy=()
    )


def prompts_apart(pair, domain, folder=None):
    """All held-out prompts of ``domain`` in two lists, to calibrate on and to evaluate on, with none in common.

    ``folder`` is `heldout_prompts`' own. They are shuffled, so that the first of each are a sample of all.
    """
    prompts = heldout_prompts(domain, 10**9, folder)
    if domain == "math" and pair.tokenizer is not None:
        from dspark_lab.train.problems import problems

        further = problems(FURTHER_PROBLEMS, "calibration", heldout=True)
        prompts += [encode_prompt(pair, worked.problem) for worked in further]
    prompts = [list(prompt) for prompt in dict.fromkeys(map(tuple, prompts))]
    order = np.random.default_rng(0).permutation(len(prompts))
    return [prompts[i] for i in order[::2]], [prompts[i] for i in order[1::2]]


class Asked(StandIn):
    """A confidence head that keeps what it was asked last, ``features`` (γ, d + r), and its ``own`` logits (γ,)."""

    def __call__(self, hidden, embedded, weights=()):
        self.features = mx.concatenate([hidden, embedded], axis=-1)
        self.own = self._module(hidden, embedded)
        return self._module(hidden, embedded, weights)


def drafts(pair, mode, prompts, temperature, rounds, max_tokens, advance):
    """Yield (prompt's number, Round, `Asked`) of whole drafts, at least ``rounds`` if the ``prompts`` suffice.

    ``advance()`` hears of every round.
    """
    drafter, found = pair.drafter(mode), 0
    asked = Asked(drafter.confidence_head)
    with replaced(drafter, {"confidence_head": asked}):
        for number, prompt in enumerate(prompts):
            if found >= rounds:
                return
            for r in stream(pair, prompt, mode, temperature=temperature, max_tokens=max_tokens, seed=number):
                if r.scheduled:  # a last round may have had no room for a draft
                    found += 1
                    advance()
                    yield number, r, asked


def gather(pair, mode, prompts, temperature, rounds, max_tokens, advance=lambda: None):
    """The evidence of ``rounds`` drafts as lists for `Evidence.from_lists`, with what the head's own weights say.

    ``prompts``: how many of them were answered.
    """
    found, own, answered = [], [], set()
    for number, r, asked in drafts(pair, mode, prompts, temperature, rounds, max_tokens, advance):
        found.append(r)
        own.append(np.array(asked.own[: r.scheduled].astype(mx.float32), float).round(4).tolist())
        answered.add(number)
    return {**Evidence.of(found).to_lists(), "own_logits": own, "prompts": len(answered)}


def greedy_weights(pair, mode, prompts, rounds, max_tokens, advance=lambda: None):
    """What `calibrate.fit_weights` finds on the answers to ``prompts``, domain -> prompts: a list."""
    drafter, pieces = pair.drafter(mode), []
    for own in prompts.values():
        features, accepted = [], []
        for _, r, asked in drafts(pair, mode, own, 0.0, WEIGHT_ROUNDS * rounds, max_tokens, advance):
            padded = np.full((drafter.draft_length, asked.features.shape[-1]), np.nan, np.float32)
            padded[: r.scheduled] = np.array(asked.features[: r.scheduled].astype(mx.float32))
            features.append(padded)
            accepted.append(r.accepted)
        pieces.append((np.array(features), np.array(accepted)))
    head = drafter.confidence_head.proj
    start = np.array(head.weight[0].astype(mx.float32)), head.bias.item()
    return calibrate.fit_weights(*pieces, start=start)


def evidence_of(cell, logits="logits"):
    """The Evidence in a cell that `gather` made; ``logits``: those of the drafts, or "own_logits"."""
    return Evidence.from_lists(*(cell[name] for name in (logits, "overlap", "accepted")))


def by_position(statistic):
    """``statistic`` of every position, and of all together in the last place: a function of score and outcome."""
    return lambda score, outcome: [*map(statistic, score.T, outcome.T), statistic(score, outcome)]


def assess(cell, temperatures):
    """What calibration does to the drafts in ``cell``: both scores, by the head alone and with all of it."""
    evidence, alone = evidence_of(cell), evidence_of(cell, "own_logits")
    scores = {"conditional": calibrate.conditional, "cumulative": calibrate.cumulative}
    return {
        "rounds": len(evidence.accepted),
        "prompts": cell["prompts"],
        "overlap_auc": finite(by_position(auc)(*calibrate.true_overlap(evidence))),
        **{
            name: {"before": judge(alone, 1.0, score), "after": judge(evidence, np.array(temperatures), score)}
            for name, score in scores.items()
        },
    }


def judge(evidence, temperatures, score):
    """ECE with its noise floor (mean, 95 % point), AUC, Brier score and reliability: by position, and of all last."""
    judged = score(evidence, temperatures)
    ece, trials = by_position(expected_calibration_error), by_position(lambda score, _: np.isfinite(score).sum())
    floors = calibrate.noise_floor(evidence, temperatures, score, ece, np.random.default_rng(0))
    with catch_warnings(action="ignore", category=RuntimeWarning):  # at a position that no round came to there is none
        floor, high = np.nanmean(floors, axis=0), np.nanquantile(floors, 0.95, axis=0)
    return {
        "trials": [int(n) for n in trials(*judged)],
        "ece": finite(ece(*judged)),
        "floor": finite(floor),
        "floor_high": finite(high),
        "auc": finite(by_position(auc)(*judged)),
        "brier": finite(by_position(brier)(*judged)),
        "reliability": [[asdict(b) for b in bins] for bins in by_position(calibrate.reliability)(*judged)],
    }


def auc_share(cell):
    """How much of the way from .5 to the true overlap's AUC the conditional score's goes; None where there is none."""
    pairs = zip(cell["conditional"]["after"]["auc"], cell["overlap_auc"])
    return [None if None in pair or pair[1] <= 0.5 else (pair[0] - 0.5) / (pair[1] - 0.5) for pair in pairs]


def bars(cells):
    """What the ``cells`` that `assess` made, by (domain, temperature), come to: name -> whether met, and figures.

    All positions together are judged. Calibration is blamed for an ECE that grew only where chance would hardly have
    made it: above the 95 % point of the noise floor.
    """
    found = {}
    for (domain, temperature), cell in cells.items():
        before, after = (cell["cumulative"][when] for when in ("before", "after"))
        old, new, floor = before["ece"][-1], after["ece"][-1], after["floor_high"][-1]
        found[f"not worse/{domain}/{temperature:g}"] = {"met": new <= max(old, floor), "figures": [old, new, floor]}
        if temperature == 0 and old > NOTABLE_ECE:
            found[f"halved/{domain}/{temperature:g}"] = {"met": new <= old / 2, "figures": [old, new]}
        if temperature > 0 and (share := auc_share(cell)[-1]) is not None:
            found[f"auc/{domain}/{temperature:g}"] = {"met": share >= ENOUGH_AUC, "figures": [share, ENOUGH_AUC]}
    return found
