"""What a follow-up turn costs: the time to its first tokens, with the earlier turns' caches and without.

A conversation is a stretch of Python, cut into a context, of which the end is taken as an earlier answer, and a new
turn. Warm, a PrefixCache holds the context from having continued it before; cold, everything goes through the models.
Both sides get the very same tokens, in alternating order, and their first round must commit the same ones.
"""

import inspect
import time

import numpy as np

import dspark_lab as lab
from dspark_lab import blas
from dspark_lab.bench.record import over_prompts
from dspark_lab.prefix_cache import PrefixCache


def conversations(pair, count, context, turn):
    """``count`` pairs of token ids: a context of ``context`` tokens and a turn of ``turn`` that follows it.

    The text is this package's own source, from a different place in each, so that it is there without a download.
    """
    from dspark_lab import checkpoint, decode, generate, metrics, prefix_cache, sampling, toy

    modules = map(inspect.getmodule, (decode, generate))
    source = "\n".join(inspect.getsource(m) for m in (*modules, checkpoint, metrics, prefix_cache, sampling, toy))
    ids, length = pair.tokenizer.encode(source, verbose=False), context + turn
    if len(ids) < length + count:
        raise ValueError(f"there are {len(ids)} tokens of text; {count} conversations of {length} need more")
    starts = np.linspace(0, len(ids) - length, count, dtype=int).tolist()
    return [(ids[start : start + context], ids[start + context : start + length]) for start in starts]


def follow_ups(pair, mode, conversations, threads, tick):
    """The cell of ``mode`` on so many OpenBLAS ``threads``: milliseconds to the first tokens, cold and warm.

    ``ratio``: cold over warm, of the sums over all conversations, with an interval over conversations. ``reused``: the
    tokens that the cache held. ``differences``: conversations whose first round committed other tokens (0, or ties).
    """
    seconds, differences, reused = [], 0, 0
    blas.set_threads(threads)
    for i, (context, turn) in enumerate([conversations[0], *conversations]):  # the first one twice: it warms up
        cache = PrefixCache(pair)
        lab.generate(pair, context, mode, max_tokens=1, prefix_cache=cache)
        sides = {None: 0.0, cache: 0.0}
        tokens = {}
        for kept in list(sides)[:: 1 if i % 2 else -1]:
            sides[kept], tokens[kept] = first_tokens(pair, context + turn, mode, kept)
        if i:
            seconds.append(list(sides.values()))
            differences += tokens[None] != tokens[cache]
            reused += cache.counts.reused_tokens
            tick()
    ratio = over_prompts(lambda sums: sums[..., 0] / sums[..., 1], seconds)
    cold, warm = np.median(seconds, axis=0)
    milliseconds = {"cold": 1e3 * cold, "warm": 1e3 * warm}
    return {"milliseconds": milliseconds, "ratio": ratio, "reused": reused, "differences": differences}


def first_tokens(pair, prompt, mode, cache):
    """Seconds to the first round of a greedy text, and the tokens that it committed."""
    rounds = lab.stream(pair, prompt, mode, max_tokens=8, prefix_cache=cache)
    start = time.perf_counter()
    first = next(rounds)
    seconds = time.perf_counter() - start
    rounds.close()
    return seconds, first.committed
