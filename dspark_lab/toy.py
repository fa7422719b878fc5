"""A world small enough to enumerate: explicit p and q, no weights, and the exact law of what the loop puts out.

"Lossless" means that the output has the target's joint distribution. With three tokens and four positions that is 81
numbers, and every draft, every coin and every corrected token can be gone through. So it is not tested here but
computed: `joint` is the law under the loop, `target_joint` the law of plain decoding, `total_variation` the distance
between them. A broken rule, handed in place of the library's own, shows as a distance that is not float error.

Texts are tuples of tokens, the prompt is empty, and distributions are numpy float64 arrays (vocab,). The rules are the
library's, in float32, so that two equal laws still differ by about 1e-7.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import mlx.core as mx
import numpy as np

from dspark_lab import sampling
from dspark_lab import schedule as schedules
from dspark_lab.rounds import Round

WHOLE_DRAFT = schedules.WholeDraft()


@dataclass(frozen=True)
class ToyWorld:
    """The target's ``p(committed)`` and the drafter's ``q(committed, drafted)``, each the next token's distribution.

    ``committed`` is the text at the start of the round, ``drafted`` what the round has drafted so far, both tuples.
    A block-diffusion drafter's q depends on ``committed`` and ``len(drafted)`` alone; with a Markov head also on the
    last token of ``drafted``; an autoregressive drafter's on all of it.
    """

    p: Callable[[tuple], np.ndarray]
    q: Callable[[tuple, tuple], np.ndarray]

    def overlap(self, committed, drafted):
        """sum(min(p, q)) at the next position: the best that a confidence head can say. Usable as ``confidence``."""
        return float(np.minimum(self.p(committed + drafted), self.q(committed, drafted)).sum())


def target_joint(world, length):
    """The law of the first ``length`` tokens under plain decoding: an array (vocab, ..., vocab) of that many axes."""
    law = np.ones(())
    for _ in range(length):
        law = np.stack([law[text] * world.p(text) for text in np.ndindex(law.shape)]).reshape(*law.shape, -1)
    return law


def joint(world, length, draft_length, schedule=WHOLE_DRAFT, **rules):
    """The law of the first ``length`` tokens under the loop with ``max_tokens=length``, an array as `target_joint`'s.

    ``draft_length``: tokens proposed in a round, fewer where fewer remain, as in ``decode``. ``schedule``: any; one
    that learns is followed along every path. ``rules``: what to put in place of the library's own, by the names that
    `rounds_after` gives them.
    """
    reached, law = {((), schedule): 1.0}, np.zeros((len(world.p(())),) * length)
    for n in range(length):
        for committed, current in [state for state in reached if len(state[0]) == n]:
            chance = reached.pop((committed, current))
            limit = min(draft_length, length - n - 1)
            for r, share in rounds_after(world, committed, limit, schedule=current, **rules):
                state = committed + tuple(r.committed), current.after(r)
                reached[state] = reached.get(state, 0.0) + chance * share
    for (text, _), chance in reached.items():
        law[text] += chance
    return law


def expected_accepted_length(world, draft_length, committed=(), **rules):
    """The expected τ of one round that starts after ``committed``: tokens committed, the target's own included."""
    outcomes = one_round(world, committed, draft_length, **rules)
    return sum(len(tokens) * share for tokens, share in outcomes.items())


def one_round(world, committed, draft_length, **rules):
    """What one round after ``committed`` may commit, with its probability: a dict from tuples of 1 to γ + 1 tokens.

    ``rules``: those of `rounds_after`.
    """
    outcomes = defaultdict(float)
    for r, share in rounds_after(world, committed, draft_length, **rules):
        outcomes[tuple(r.committed)] += share
    return dict(outcomes)


def rounds_after(
    world,
    committed,
    draft_length,
    *,
    schedule=WHOLE_DRAFT,
    confidence=None,
    acceptance=sampling.acceptance,
    residual=sampling.residual,
    drawn=None,
    scheduled_length=schedules.scheduled_length,
):
    """Every Round that may follow ``committed`` and its probability, as pairs; times and probabilities in it are empty.

    ``schedule``: any Schedule; ``confidence(committed, drafted)`` gives c_k for the position after ``drafted``, None is
    no confidence head. The rest is for breaking: ``acceptance`` and ``residual`` are called with whole p and q (vocab,)
    as float32 MLX arrays; ``drawn``, of q's signature, is what drafts are really drawn from (None: q, as it must be);
    ``scheduled_length`` sees the survivals of the whole draft at once, which a Schedule never does.
    """
    judge = cache(lambda drafted: verdict(world, committed, drafted, acceptance, residual))
    limit = draft_length if schedule.max_draft is None else min(draft_length, schedule.max_draft)
    for draft, share in drafts(drawn or world.q, committed, limit):
        scores = [confidence(committed, draft[:k]) for k in range(limit)] if confidence else None
        n = scheduled_length(schedule, schedules.survival_of(scores if schedule.reads_draft else None, limit))
        for k in range(n):  # rejected at position k + 1: the target's own token is the correction
            accepted, correction = judge(draft[:k])
            yield from endings(committed, draft, scores, n, k, share * (1 - accepted[draft[k]]), correction)
            share *= accepted[draft[k]]
        yield from endings(committed, draft, scores, n, n, share, world.p(committed + draft[:n]))  # it is the bonus


def drafts(drawn, committed, length):
    """All drafts of ``length`` tokens that have a chance under ``drawn``, each a tuple, with that chance."""
    found = [((), 1.0)]
    for _ in range(length):
        found = [
            (draft + (token,), share * chance)
            for draft, share in found
            for token, chance in enumerate(drawn(committed, draft))
            if chance > 0
        ]
    return found


def verdict(world, committed, drafted, acceptance, residual):
    """After ``drafted``: each token's chance to be accepted, and the law of the correction; both float64 (vocab,)."""
    p = mx.array(world.p(committed + drafted), mx.float32)
    q = mx.array(world.q(committed, drafted), mx.float32)
    return np.array(acceptance(p, q), np.float64), np.array(residual(p, q), np.float64)


def endings(committed, draft, scores, scheduled, accepted, share, own):
    """The Rounds that accept so much of ``draft`` and end with a token drawn from ``own`` (vocab,), and their chances.

    ``share``: the chance of all of them together.
    """
    timeless = {"draft_seconds": 0.0, "verify_seconds": 0.0, "other_seconds": 0.0}
    for token, chance in enumerate(own):
        if share * chance > 0:
            r = Round(
                anchor=committed[-1] if committed else None,
                drafted=list(draft),
                scheduled=scheduled,
                confidence=scores,
                accepted=accepted,
                committed=[*draft[:accepted], token],
                ending="bonus" if accepted == scheduled else "correction",
                **timeless,
            )
            yield r, float(share * chance)


def total_variation(a, b):
    """Half the sum of |a - b|: the most by which the probability of any event differs under laws ``a`` and ``b``."""
    return float(np.abs(a - b).sum() / 2)


def random_world(rng, vocab, drafter="markov", scale=1.5):
    """A world of softmaxed normal logits of standard deviation ``scale``, for texts of any length.

    ``drafter``: "independent" (q_k knows the committed text), "markov" (plus a bias by the token before, the anchor at
    first) or "conditional" (q_k knows the committed text and all drafted tokens). ``rng``, a numpy Generator, gives one
    seed; each prefix then has logits of its own from the seed and the prefix, so no table limits the length, and the
    order of asking does not matter.
    """
    if drafter not in ("independent", "markov", "conditional"):
        raise ValueError(f"drafter is {drafter!r}; give 'independent', 'markov' or 'conditional'")
    seed = int(rng.integers(2**62))

    @cache
    def logits(table, *parts):
        place = [number for part in parts for number in (len(part), *part)]  # lengths keep () and (0,) apart
        return np.random.default_rng([seed, table, *place]).normal(scale=scale, size=vocab)

    def q(committed, drafted):
        base = logits(1, committed, drafted if drafter == "conditional" else (len(drafted),))
        return softmax(base + logits(2, (*committed, *drafted)[-1:]) if drafter == "markov" else base)

    return ToyWorld(lambda committed: softmax(logits(0, committed)), q)


def phrase_world(drafter):
    """Two phrases, "of course" and "no problem", again and again, equally likely; tokens 0 to 3 are their words.

    The drafter knows every position's distribution given the committed text. That is all that an "independent" one
    knows, and it drafts "of problem" as often as not; a "markov" one also knows the token before, and drafts as the
    target writes.
    """
    if drafter not in ("independent", "markov"):
        raise ValueError(f"drafter is {drafter!r}; give 'independent' or 'markov'")
    first, second, after = np.array([0.5, 0, 0.5, 0]), np.array([0, 0.5, 0, 0.5]), np.eye(4)[[1, 0, 3, 2]]

    def p(committed):
        return after[committed[-1]] if len(committed) % 2 else first

    def q(committed, drafted):
        collides = drafter == "independent" and drafted and (len(committed) + len(drafted)) % 2
        return second if collides else p(committed + drafted)

    return ToyWorld(p, q)


def softmax(logits):
    """The distribution (vocab,) of float64 ``logits`` (vocab,)."""
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()
