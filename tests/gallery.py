"""Every figure of dspark_lab.plots once, from data made by hand: ``figures()`` for the tests.

Run as a script, ``python tests/gallery.py FOLDER`` writes them as PNG files to look at.
"""

import sys
from pathlib import Path

import numpy as np
from hand_rounds import decode, hand_round, hand_text, many_rounds

from dspark_lab import metrics, plots

FAST = many_rounds([0.9, 0.88, 0.85, 0.8, 0.78, 0.75, 0.7])
SLOW = many_rounds([0.8, 0.5, 0.4, 0.45, 0.5, 0.5, 0.6], seed=1)
PLAIN = [hand_round(0, 0, seconds=0.006) for _ in range(60)]
WORDS = ["of", " course", "no", " problem"]
P, Q = [0.5, 0.3, 0.15, 0.05], [0.2, 0.5, 0.1, 0.2]
H100 = {1: 9.58e-3, 2: 15.39e-3, 4: 14.87e-3, 8: 14.64e-3}
HERE = {n: (0.001 * (3 + 0.6 * n), 0.001 * (2.8 + 0.6 * n), 0.001 * (3.4 + 0.6 * n)) for n in range(1, 9)}
LENGTHS = {"dspark": {"math": (6.1, 5.8, 6.3), "code": 3.1}, "dflash": {"math": 5.4, "code": 2.6}}
SPEEDS = {"dspark": {0: 250, 1: 300, 2: 340, 4: 330, 7: 280}}


def scores(n=2000, seed=0):
    """Predictions, and outcomes that are a little worse than predicted."""
    rng = np.random.default_rng(seed)
    predicted = rng.random(n)
    return predicted, rng.random(n) < predicted**1.5


def figures():
    """Name -> figure, one for each public function of plots that draws."""
    score, happened = scores()
    modes = {"dspark": FAST, "dflash": SLOW}
    mask = np.tril(np.ones((4, 9)), 5) > 0
    rng = np.random.default_rng(1)
    return {
        "accept_rule": plots.accept_rule(P, Q, WORDS),
        "accepted_lengths": plots.accepted_lengths({"code, dspark": FAST, "code, dflash": SLOW, "prose": SLOW}),
        "against_cost": plots.against_cost(
            {
                d: {"dspark": {0: (1, 1), 1: (1.3, 1.8), 7: (2.2, 4.1)}, "lookup": {0: (1, 1), 7: (1.2, 1.3)}}
                for d in WORDS[:3]
            }
        ),
        "agreement": plots.agreement({"dspark": [(100, 110), (120, 118)], "dflash": [(80, 95), (70, 66)]}),
        "attention": plots.attention(mask, ["x0", "[M]", "[M]", "[M]"], [*"abcde", "x0", "[M]", "[M]", "[M]"], 5),
        "bars": plots.bars(
            {"dspark": {"math": (6.1, 5.8, 6.3), "code": 3.1}, "dflash": {"math": 5.4, "code": 2.6}}, "τ"
        ),
        "budget": plots.budget({"scheduler": {1: 6.2, 4: 4.0, 16: 1.1}, "fixed 4": {1: 4, 4: 4, 16: 4}}),
        "by_position": plots.by_position(modes),
        "by_position_panels": plots.by_position_panels(
            {
                d: {mode: metrics.conditional_acceptance(rounds) for mode, rounds in modes.items()}
                for d in ("code", "math")
            },
            "conditional acceptance",
            marks={"math": {"dflash": {1: 0.88, 7: 0.6}}},
        ),
        "caches": plots.caches(plots.cache_steps(hand_round(2, 5), decode, ["Tom", " has", " 3", " pens"])),
        "curves": plots.curves(
            {"cross-entropy": [(n, 3 / n) for n in range(1, 60)], "L1": {1: 2, 30: 1}}, "step", "loss"
        ),
        "laws": plots.laws({"target": P, "broken": Q}, WORDS, {"broken": [(v - 0.02, v + 0.02) for v in Q]}),
        "markov_bias": plots.markov_bias(
            rng.normal(size=12) * 3, rng.normal(size=12) * 2, lambda i: decode([i]), " no"
        ),
        "order": plots.order({"A1": 0.9, "B1": 0.85, "B2": 0.3}, {"A1": 0.7, "B1": 0.8, "B2": 0.35}),
        "overlaps": plots.overlaps(FAST),
        "pair_laws": plots.pair_laws({"target": np.diag([0.5, 0.5]), "drafter": np.full((2, 2), 0.25)}, ["of", "no"]),
        "race": plots.race({"plain": PLAIN, "dspark": FAST[:15]}),
        "reliability": plots.reliability(
            {f"position {k}": {"raw": (score, happened), "scaled": (score**1.5, happened)} for k in (1, 2)}
        ),
        "ribbon": plots.ribbon(hand_text([3, 0, 7, 2], length=7), decode),
        "round_parts": plots.round_parts(hand_round(2, 5, scheduled=4), decode),
        "scheduling": plots.scheduling(
            {"smooth": [1, 1.3, 1.4, 1.35, 1.2], "staircase": [1.0, 0.97, 1.2, 1.4, 1.5]},
            {"smooth": {"Algorithm 1": 2}, "staircase": {"Algorithm 1": 0, "delayed": 4}},
        ),
        "seconds_by_part": plots.seconds_by_part({**modes, "plain": PLAIN}),
        "separation": plots.separation(
            {"confidence": (score, happened), "overlap": (score + 0.1 * happened, happened)}
        ),
        "speed_by_length": plots.speed_by_length(
            {"dspark": {0: 250, 1: 300, 2: 340, 4: 330, 7: 280}},
            {"dspark": {2: (335, 320, 350)}},
            250,
            {1: 380, 7: 900},
        ),
        "suffix_decay": plots.suffix_decay(SLOW, [0.8, 0.5, 0.42, 0.38, 0.35, 0.33, 0.3]),
        "threshold_sweep": plots.threshold_sweep({"code": {0.0: SLOW, 0.4: FAST, 0.8: FAST}}),
        "throughput": plots.throughput({"dspark": {1: 300, 4: 700, 16: 1200}, "plain": {1: 250, 4: 720, 16: 1500}}),
        "verify_cost": plots.verify_cost(
            {"a pass": HERE, "its products alone": H100},
            (0.003, 0.0006),
            {"bytes / bandwidth": {1: 0.002, 8: 0.002}, "FLOPs / matmul rate": {1: 0.0003, 8: 0.0024}},
        ),
    }


if __name__ == "__main__":
    for name, fig in figures().items():
        (Path(sys.argv[1]) / f"{name}.png").write_bytes(fig.png())
        print(f"{name}: {fig.alt}\n")
