"""Is confidence right? Rounds gathered on two sets of prompts: temperatures are fitted on one, judged on the other.

The numbers are calibrate.py's; here are the prompts, the rounds, what a cell holds, and the bars that it is held to.
"""

from dataclasses import asdict, replace
from warnings import catch_warnings

import numpy as np

from dspark_lab import calibrate
from dspark_lab.bench.prompts import heldout_prompts
from dspark_lab.bench.record import finite
from dspark_lab.calibrate import Evidence, auc, brier, expected_calibration_error
from dspark_lab.generate import encode_prompt, stream

FURTHER_PROBLEMS = 2000  # generated: the corpus holds out 500, too few where a round commits many tokens
ENOUGH_AUC, NOTABLE_ECE = 0.7, 0.02  # the bars: a share of what the true overlap reaches; an ECE that must halve


def uncalibrated(drafter):
    """Make ``drafter`` forget its temperatures (in place). Raises ValueError for one without a confidence head."""
    if not hasattr(drafter, "confidence_head"):
        raise ValueError(f"mode {drafter.mode} has no confidence head to calibrate; give --mode dspark")
    drafter.config = replace(drafter.config, confidence_temperatures=(), confidence_temperatures_greedy=())


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


def gather(pair, mode, prompts, temperature, rounds, max_tokens, advance=lambda: None):
    """Rounds with whole drafts, at least ``rounds`` if the ``prompts`` suffice, as lists for `Evidence.from_lists`.

    ``prompts``: how many of them were answered. ``advance()`` hears of every round.
    """
    found, answered = [], 0
    for seed, prompt in enumerate(prompts):
        if len(found) >= rounds:
            break
        for r in stream(pair, prompt, mode, temperature=temperature, max_tokens=max_tokens, seed=seed):
            if r.scheduled:  # a last round may have had no room for a draft
                found.append(r)
                advance()
        answered += 1
    return {**Evidence.of(found).to_lists(), "prompts": answered}


def evidence_of(cell):
    """The Evidence in a cell that `gather` made."""
    return Evidence.from_lists(*(cell[name] for name in ("logits", "overlap", "accepted")))


def by_position(statistic):
    """``statistic`` of every position, and of all together in the last place: a function of score and outcome."""
    return lambda score, outcome: [*map(statistic, score.T, outcome.T), statistic(score, outcome)]


def assess(cell, temperatures):
    """What ``temperatures`` do to the drafts in ``cell``: both scores, before and after."""
    evidence = evidence_of(cell)
    scores = {"conditional": calibrate.conditional, "cumulative": calibrate.cumulative}
    return {
        "rounds": len(evidence.accepted),
        "prompts": cell["prompts"],
        "overlap_auc": finite(by_position(auc)(*calibrate.true_overlap(evidence))),
        **{
            name: {when: judge(evidence, t, score) for when, t in [("before", 1.0), ("after", np.array(temperatures))]}
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
