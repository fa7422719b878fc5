"""Rounds built by hand, for what is drawn from Rounds alone."""

import numpy as np

from dspark_lab import Round

WORDS = dict(
    enumerate(["of", " course", " no", " problem", "\n", " the", " plan", ".", " cat", " sat", " $5", " ünder"])
)


def decode(tokens):
    """The text of token ids, each a word of WORDS."""
    return "".join(WORDS[token % len(WORDS)] for token in tokens)


def hand_round(accepted, length=7, scheduled=None, ending=None, anchor=0, start=1, confidence=True, seconds=0.01):
    """A Round whose first ``accepted`` of ``length`` drafts were accepted; tokens count up from ``start``."""
    scheduled = length if scheduled is None else scheduled
    drafted = [(start + k) % len(WORDS) for k in range(length)]
    ending = ending or ("bonus" if accepted == scheduled else "correction")
    own = [] if ending == "stop" else [(start + accepted + 3) % len(WORDS)]
    p = [0.9 - 0.05 * k if k < accepted else 0.1 for k in range(scheduled)]
    return Round(
        anchor=anchor,
        drafted=drafted,
        draft_probs=[0.8 - 0.04 * k for k in range(length)],
        scheduled=scheduled,
        target_probs=p,
        overlap=[0.9 - 0.08 * k for k in range(scheduled)],
        confidence=[0.85 - 0.07 * k for k in range(length)] if confidence else None,
        accepted=accepted,
        committed=[*drafted[:accepted], *own],
        ending=ending,
        draft_seconds=seconds * 0.3 if length else 0.0,
        verify_seconds=seconds * 0.6,
        other_seconds=seconds * 0.1,
    )


def hand_text(lengths, **options):
    """A text's Rounds, one for each number of accepted drafts, the last of which ends it."""
    rounds, anchor, start = [], 0, 1
    for accepted in lengths:
        r = hand_round(accepted, anchor=anchor, start=start, **options)
        rounds.append(r)
        anchor, start = r.committed[-1], r.committed[-1] + 1
    rounds[-1].finish_reason = "length"
    for r in rounds:
        r.text = decode(r.committed)
    return rounds


def many_rounds(rates, n=400, seed=0):
    """``n`` Rounds whose k-th draft is accepted with probability rates[k], given those before it."""
    draws = np.random.default_rng(seed).random((n, len(rates))) < np.array(rates)
    return [hand_round(int(np.cumprod(row).sum()), len(rates), confidence=False) for row in draws]
