"""Where a round goes. MLX computes late, so in these runs, and only in these, every part is waited for.

The parts are methods that the decode loop calls anyway; for the time of a run, stand-ins that hold a clock take their
places on this one drafter and target, and that of the accept rule. Waiting costs something itself: the table says what
a round takes without.
"""

import time
from collections import Counter
from contextlib import contextmanager

import mlx.core as mx

from dspark_lab.generate import stream
from dspark_lab.sampling import Sampling

DRAFTER_PARTS = {
    "draft_states": "backbone",
    "base_logits": "draft logits",
    "draw": "Markov loop",
    "confidence": "confidence",
    "propose": "draft, the rest",
    "commit": "context update",
}
REST = "the rest"


class Stopwatch:
    """``seconds`` by part; the time of a part that another one calls counts for the inner one alone."""

    def __init__(self):
        self.seconds, self._inner = Counter(), [0.0]

    def watch(self, part, function):
        """``function``, timed as ``part``: from when its arguments are there until it is done with them."""

        def timed(*args, **kwargs):
            mx.eval(arrays(args))
            self._inner.append(0.0)
            start = time.perf_counter()
            result = function(*args, **kwargs)
            mx.eval(arrays((result, args)))  # caches are arguments that change
            spent = time.perf_counter() - start
            self.seconds[part] += spent - self._inner.pop()
            self._inner[-1] += spent
            return result

        return timed


def arrays(thing):
    """All MLX arrays in lists, tuples and the attributes of records and caches."""
    if isinstance(thing, mx.array):
        return [thing]
    parts = thing if isinstance(thing, list | tuple) else getattr(thing, "__dict__", {}).values()
    return [array for part in parts for array in arrays(part)]


@contextmanager
def watched(watch, owner, parts):
    """Inside this context the functions ``parts`` (name -> part) of ``owner`` are timed by the Stopwatch ``watch``."""
    parts = {name: part for name, part in parts.items() if hasattr(owner, name)}
    originals = {name: vars(owner)[name] for name in parts if name in vars(owner)}
    try:
        for name, part in parts.items():
            setattr(owner, name, watch.watch(part, getattr(owner, name)))
        yield
    finally:
        for name in parts:
            if name in originals:
                setattr(owner, name, originals[name])
            else:
                delattr(owner, name)  # the class's own comes to light again


def profile(pair, mode, prompts, advance=lambda: None, **options):
    """Milliseconds a round by part, of ``mode`` on ``prompts`` (token ids): a cell. ``options`` are ``stream``'s.

    The first round of each text is left out: the drafter's share of the prompt falls into it. ``milliseconds`` add up
    to ``round``; ``unwatched_round`` is what a round takes when nothing is waited for.
    """
    drafter, watch, rounds, total = pair.drafter(mode), Stopwatch(), [0, 0], [0.0, 0.0]
    for seed, prompt in enumerate(prompts):
        with (
            watched(watch, drafter, DRAFTER_PARTS),
            watched(watch, pair.target, {"forward": "verify", "rollback": "rollback"}),
            watched(watch, Sampling, {"judge": "accept"}),
        ):
            spent = steady_rounds(pair, prompt, mode, {**options, "seed": seed}, watch)
        for i, times in enumerate([spent, steady_rounds(pair, prompt, mode, {**options, "seed": seed})]):
            rounds[i] += len(times)
            total[i] += sum(times)
        advance()
    if not rounds[0]:
        raise ValueError("no prompt was answered in more than one round; give more prompts or tokens")
    parts = {**watch.seconds, REST: total[0] - sum(watch.seconds.values())}
    return {
        "rounds": rounds[0],
        "milliseconds": {part: 1e3 * seconds / rounds[0] for part, seconds in parts.items()},
        "round": 1e3 * total[0] / rounds[0],
        "unwatched_round": 1e3 * total[1] / rounds[1],
    }


def steady_rounds(pair, prompt, mode, options, watch=None):
    """The seconds of each round but the first; ``watch``, if given, forgets the prompt and the first round too."""
    rounds, spent = stream(pair, prompt, mode, **options), []
    before = Counter() if watch is None else watch.seconds.copy()
    next(rounds)
    if watch is not None:
        watch.seconds = before
    start = time.perf_counter()
    for _ in rounds:
        now = time.perf_counter()
        spent.append(now - start)
        start = now
    return spent
