"""Throughput against speed per user, and how much is verified, as more requests share the machine (figures 7 and 8).

A run answers twice as many prompts as fit into the batch, and only passes with a full batch count, so that R is R
throughout. The ways of scheduling take turns, run by run, on the same prompts; what slows the machine down for a while
slows all of them. The prompts' own passes are not in the times.
"""

from collections import defaultdict
from itertools import cycle
from statistics import median

import numpy as np

from dspark_lab.batch import decode_batch
from dspark_lab.batch_schedule import Columns
from dspark_lab.bench.record import over_prompts
from dspark_lab.schedule import Cap, HardwareAware, WholeDraft

PLAIN, SCHEDULER, PAPER = "plain", "columns", "algorithm 1"
FEWEST = 8  # prompts, on which passes of every width are timed
TOKENS, SECONDS, SCHEDULED, REQUESTS, COMPUTED = range(5)  # what a run's tally sums over its full passes


def batch_speeds(pair, mode, prompts, size, lengths, runs, advance=lambda: None, **options):
    """All ways of scheduling ``size`` requests of ``prompts`` (token ids) at a time: a cell.

    "algorithm 1" is the paper's to the letter, and counts tokens; "columns" counts the padding too (`Columns`).
    ``lengths``: the fixed ones. ``options`` are ``decode_batch``'s. For each way, with intervals over ``runs``:
    ``throughput`` and ``per_user`` (tokens a second), ``over_plain`` (throughputs, paired by run), and a request and
    pass: ``scheduled`` drafted tokens, ``computed`` tokens of the padded pass, ``accepted_length``.
    """
    step = step_seconds(pair, mode, prompts, size, advance, **options)

    def seconds(tokens):
        return float(np.interp(tokens, step["tokens"], step["seconds"]))

    scheduler = Columns(seconds, lambda requests: step["plain"])
    ways = {PLAIN: ("baseline", WholeDraft()), SCHEDULER: (mode, scheduler), PAPER: (mode, HardwareAware(seconds))}
    ways |= {f"fixed {n}": (mode, Cap(n)) for n in lengths}
    tallies = defaultdict(list)
    for run in range(runs):
        own = taken(prompts, run, 2 * size)
        for name in list(ways)[:: -1 if run % 2 else 1]:
            way, schedule = ways[name]
            tallies[name].append(
                tally(decode_batch(pair, own, way, schedule=schedule, batch_size=size, **options), size)
            )
            advance()
    return {
        "step": step,
        "ways": {name: summary(tallies[name], tallies[PLAIN], size) for name in ways},
    }


class Sweep:
    """Verifies 0, 1, 2, ... drafted tokens of every request, and begins again: to time passes of every width."""

    def __init__(self, longest):
        self.turns = cycle(range(longest + 1))

    def lengths(self, survivals):
        """The next number, for all that have drafted so much."""
        n = next(self.turns)
        return [min(n, len(survival) - 1) for survival in survivals]


def step_seconds(pair, mode, prompts, size, advance=lambda: None, **options):
    """Median seconds of a full pass: ``seconds`` with a draft, by the ``tokens`` computed, and ``plain`` without one.

    The prompts are answered twice; the first time warms up (a GPU compiles kernels for every new shape).
    """
    own, times = taken(prompts, 0, max(2 * size, FEWEST)), {}
    for schedule in [Sweep(pair.drafter(mode).draft_length), Cap(0)] * 2:
        times[type(schedule)] = widths = defaultdict(list)
        for one in decode_batch(pair, own, mode, schedule=schedule, batch_size=size, **options):
            if len(one.rounds) == size:
                widths[one.width].append(one.seconds)
        advance()
    swept = sorted(times[Sweep].items())
    return {
        "tokens": [size * width for width, _ in swept],
        "seconds": [median(seconds) for _, seconds in swept],
        "plain": median(times[Cap][1]),
    }


def taken(prompts, run, count):
    """The prompts of a ``run``: ``count`` of them, those after the run before's, from the front again at the end."""
    return [prompts[(run * count + i) % len(prompts)] for i in range(count)]


def tally(passes, size):
    """Sums over the full ones of ``passes``, by TOKENS to COMPUTED. Raises ValueError if there is none."""
    full = [one for one in passes if len(one.rounds) == size]
    if not full:
        raise ValueError(f"no pass had {size} requests in it")
    each = [(one.tokens, one.seconds, one.scheduled, size, size * one.width) for one in full]
    return np.sum(each, axis=0).tolist()


def summary(tallies, plain, size):
    """What ``tallies``, one a run, come to, beside those of plain decoding in the same runs."""

    def of(part, whole, scale=1.0):
        return over_runs(lambda sums: scale * sums[..., part] / sums[..., whole], tallies)

    def ratio(ours, theirs):
        return (ours[..., TOKENS] / ours[..., SECONDS]) / (theirs[..., TOKENS] / theirs[..., SECONDS])

    return {
        "throughput": of(TOKENS, SECONDS),
        "per_user": of(TOKENS, SECONDS, 1 / size),
        "over_plain": over_runs(ratio, tallies, plain),
        "scheduled": of(SCHEDULED, REQUESTS),
        "computed": of(COMPUTED, REQUESTS),
        "accepted_length": of(TOKENS, REQUESTS),
        "tallies": tallies,
    }


def over_runs(statistic, *tables):
    """`over_prompts`, where what is drawn again are runs."""
    found = over_prompts(statistic, *tables)
    return {"runs": found.pop("prompts"), **found}
