"""How far decoding is from its limit: the work that no loop can do without, against what a round really takes.

The work is the drafter's backbone with its head, the Markov loop, the target's pass over the draft, and the update of
the drafter's context. The rounds of a real run are gone through again, one part at a time in a tight loop on the same
tokens, states and contexts, and nothing else is done. Drafting, verifying and committing cost the same however many
tokens they bring, so the share of the limit's tokens per second that is reached is the parts' time over the rounds'.
"""

import time

import mlx.core as mx
import numpy as np

from dspark_lab import metrics
from dspark_lab.bench.profile import arrays
from dspark_lab.decode import prefill
from dspark_lab.drafters.protocol import NoDrafter
from dspark_lab.generate import stream
from dspark_lab.sampling import Sampling

GREEDY = Sampling()


def limit(pair, mode, prompts, max_draft, max_tokens, advance=lambda: None):
    """The share of its limit that greedy ``mode`` reaches with drafts of ``max_draft``, and its parts' ms: a cell.

    By prompt the two sides follow one another; a text's first round, into which the drafter's share of the prompt
    falls, is left out of both. Raises ValueError for a drafter without a Markov loop.
    """
    drafter = pair.drafter(mode)
    if not hasattr(drafter, "draw"):
        raise ValueError(f"mode {drafter.mode} has no Markov loop; the limit is known for dspark alone")
    real, parts, count = [], [], 0
    for i, prompt in enumerate([prompts[0], *prompts]):  # the first of them warms up
        ends, rounds = [], []
        for r in stream(pair, prompt, mode, max_draft=max_draft, max_tokens=max_tokens):
            rounds.append(r)
            ends.append(time.perf_counter())
        if i and len(rounds) > 1:
            real.append(ends[-1] - ends[0])
            parts.append(replay(pair.target, drafter, prompt, rounds))
            count += len(rounds) - 1
        advance()
    if len(real) < 2:
        raise ValueError("fewer than two prompts were answered in more than one round; give more prompts or tokens")
    share = metrics.bootstrap_ratio([sum(p.values()) for p in parts], real, np.random.default_rng(0))
    return {
        "share": {"estimate": share.estimate, "low": share.low, "high": share.high, "prompts": share.pairs},
        "milliseconds": {name: 1e3 * sum(p[name] for p in parts) / count for name in parts[0]},
        "round": 1e3 * sum(real) / count,
        "rounds": count,
    }


def replay(target, drafter, prompt, rounds):
    """Seconds that the parts of all ``rounds`` but the first take, each part alone."""
    verify, hidden = replay_verify(target, drafter, prompt, rounds)
    backbone, drafted = replay_backbone(target, drafter, prompt, rounds, hidden)
    draw = clocked(lambda case: drafter.draw(*case, GREEDY, mx.random.key(0))[0], drafted)
    cache = prefilled(target, drafter, prompt)

    def commit(case):
        r, states = case
        drafter.commit([r.anchor, *r.committed[:-1]], states, cache)
        return cache

    update = clocked(commit, zip(rounds, hidden))
    parts = {"verify": verify, "backbone and head": backbone, "Markov loop": draw, "context update": update}
    return {name: sum(seconds[1:]) for name, seconds in parts.items()}


def replay_verify(target, drafter, prompt, rounds):
    """The seconds of each round's pass of the target, and the tapped states of what the round committed."""
    cache, hidden = target.new_cache(), []
    prefill(target, NoDrafter(), prompt[:-1], cache, None)

    def verify(r):
        return target.forward([r.anchor, *r.drafted[: r.scheduled]], cache, drafter.taps)

    def keep(r, result):
        hidden.append(result[1][:, : len(r.committed)])
        target.rollback(cache, r.scheduled + 1 - len(r.committed))

    return clocked(verify, rounds, keep), hidden


def replay_backbone(target, drafter, prompt, rounds, hidden):
    """The seconds of each round's draft pass with its head, and what the Markov loop then starts from."""
    cache, drafted, states = prefilled(target, drafter, prompt), [], iter(hidden)

    def draft(r):
        slots = drafter.draft_states(r.anchor, cache)[0, : r.draft_length]
        return r.anchor, slots, drafter.base_logits(slots)

    def keep(r, result):
        drafted.append(result)
        drafter.commit([r.anchor, *r.committed[:-1]], next(states), cache)
        mx.eval(arrays(cache))

    return clocked(draft, [r for r in rounds if r.draft_length], keep), drafted


def prefilled(target, drafter, prompt):
    """The drafter's cache when the first draft is made."""
    cache = drafter.new_cache()
    prefill(target, drafter, prompt[:-1], target.new_cache(), cache)
    mx.eval(arrays(cache))
    return cache


def clocked(part, cases, keep=lambda case, result: None):
    """The seconds that ``part(case)`` takes, to the end of its computation, for each of ``cases``.

    ``keep(case, result)`` is called after each, and not timed.
    """
    seconds = []
    for case in cases:
        start = time.perf_counter()
        result = part(case)
        mx.eval(arrays(result))
        seconds.append(time.perf_counter() - start)
        keep(case, result)
    return seconds
