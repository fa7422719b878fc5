"""What a rejection costs the target: restoring its caches, beside the pass that had to be undone."""

import copy
import time
from statistics import median

import mlx.core as mx

from dspark_lab.decode import prefill
from dspark_lab.drafters import NoDrafter


def rollback_costs(target, context, draft_length, repeats, advance=lambda: None):
    """Milliseconds behind ``context`` tokens, for every number of tokens kept of a pass: a list of cells.

    Each cell: ``kept`` of the draft_length + 1 tokens of a pass; ``verify``, that pass; ``rollback``, restoring the
    caches, waited for; ``again``, what doing without a record would cost: a pass over the kept tokens, from a copy of
    the caches. Medians of ``repeats``, after one run to warm up.
    """
    text = [i % target.vocab_size for i in range(context + draft_length + 1)]
    start = target.new_cache()
    prefill(target, NoDrafter(), text[:context], start, None)
    cells = []
    for kept in range(1, draft_length + 1):
        times = [round_trip(target, start, text[context:], kept) for _ in range(repeats + 1)][1:]
        cells.append({"kept": kept, **{part: median(row[part] for row in times) for part in times[0]}})
        advance()
    return cells


def round_trip(target, start, block, kept):
    """The milliseconds of one cell's parts, once, each on a copy of the cache ``start``."""
    cache, other = copy.deepcopy(start), copy.deepcopy(start)
    return {
        "verify": timed(lambda: target.forward(block, cache)[0], cache),
        "rollback": timed(lambda: target.rollback(cache, len(block) - kept), cache),
        "again": timed(lambda: target.forward(block[:kept], other)[0], other),
    }


def timed(call, cache):
    """Milliseconds until ``call``'s result and the states of ``cache`` are there."""
    mx.eval([entry.state for entry in cache])
    start = time.perf_counter()
    result = call()
    mx.eval([entry.state for entry in cache], [] if result is None else result)
    return 1e3 * (time.perf_counter() - start)
