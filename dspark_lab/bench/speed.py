"""Two ways of decoding, timed against one another prompt by prompt, in one process and in alternating order.

The clock is the reader's: it runs from the arrival of a text's first tokens to the arrival of its last, and is divided
by the tokens that arrived in between. So the prompt's pass is left out on both sides, as is the first token (or first
round), whoever decodes. A machine that slows down slows both sides, and the ratio of a prompt stands.

What can be chosen, the draft's cap or threshold and the number of OpenBLAS threads, is chosen for each side on prompts
of its own, apart from those that are then measured.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dspark_lab import blas, metrics
from dspark_lab.generate import stream
from dspark_lab.race import TIE, margin


@dataclass(frozen=True)
class Side:
    """One way of decoding: ``run(prompt, seed)`` yields lists of tokens as they come; ``threads``: for OpenBLAS."""

    name: str
    run: Callable
    threads: int

    def timed(self, prompt, seed):
        """All tokens of the answer to ``prompt``, and seconds a token after the first arrival, as `clock` has them."""
        blas.set_threads(self.threads)
        return clock((time.perf_counter(), part) for part in self.run(prompt, seed))


def thread_counts():
    """The numbers of OpenBLAS threads to choose from: one, and one a core."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    return sorted({1, cores}) if blas.name() == "openblas" else [1]


def plain(pair, counts, max_tokens, temperature=0.0):
    """Our plain decoding as Sides, one a number of threads."""
    return settings(pair, "baseline", [{}], counts, max_tokens, temperature)


def settings(pair, mode, options, counts, max_tokens, temperature):
    """``mode`` as Sides, one for each of ``options`` (dicts for ``stream``) and number of threads."""

    def runner(option):
        given = {"max_tokens": max_tokens, "temperature": temperature, **option}
        return lambda prompt, seed: (r.committed for r in stream(pair, prompt, mode, seed=seed, **given))

    return [
        Side(" ".join([mode, *(f"{name} {value}" for name, value in option.items())]), runner(option), threads)
        for option in options
        for threads in counts
    ]


def mlx_lm(pair, counts, max_tokens):
    """mlx-lm's own greedy ``stream_generate`` on the pair's very model, as Sides."""
    from mlx_lm import stream_generate

    if pair.tokenizer is None:
        raise ValueError(
            f"the pair {pair.name} has no tokenizer, which mlx_lm.stream_generate needs; give one that has"
        )

    def run(prompt, seed):
        for response in stream_generate(pair.target.model, pair.tokenizer, prompt, max_tokens=max_tokens):
            yield [response.token]

    return [Side("mlx_lm", run, threads) for threads in counts]


def draft_options(drafter, caps, thresholds):
    """The settings to choose from: each cap that the drafter's block allows, each threshold where it has confidence."""
    options = [{"max_draft": cap} for cap in caps if cap <= drafter.draft_length]
    if hasattr(drafter, "confidence_head"):
        options += [{"confidence_threshold": threshold} for threshold in thresholds]
    if not options:
        raise ValueError(f"no draft of mode {drafter.mode} is as long as {min(caps, default=0)}; give smaller caps")
    return options


def clock(arrivals):
    """All tokens of ``arrivals``, (time, tokens) pairs, and seconds a token after the first (NaN if there was one)."""
    times, parts = zip(*arrivals)
    tokens = [token for part in parts for token in part]
    later = len(tokens) - len(parts[0])
    return tokens, (times[-1] - times[0]) / later if later else float("nan")


def in_turns(sides, prompts, advance=lambda: None):
    """Every side on every prompt, in an order that turns round from prompt to prompt.

    Returns tokens, sides -> prompts -> ids, and seconds a token (sides, prompts).
    """
    seconds, tokens = np.full((len(sides), len(prompts)), np.nan), [[None] * len(prompts) for _ in sides]
    for seed, prompt in enumerate(prompts):
        for side in range(len(sides))[:: -1 if seed % 2 else 1]:
            tokens[side][seed], seconds[side, seed] = sides[side].timed(prompt, seed)
            advance()
    return tokens, seconds


def fastest(seconds):
    """The row of ``seconds`` (sides, prompts) that is best by the median of its times over each prompt's median."""
    seconds = seconds[:, np.isfinite(seconds).any(axis=0)]
    relative = [row[np.isfinite(row)] for row in seconds / np.nanmedian(seconds, axis=0)]
    if not any(row.size for row in relative):
        raise ValueError("no prompt was answered in more than one round by any side; give more prompts or tokens")
    return int(np.argmin([np.median(row) if row.size else np.inf for row in relative]))


def choose(groups, trial_prompts, advance=lambda: None):
    """The best Side of each of ``groups`` (lists of Sides) on ``trial_prompts``, and seconds a token of every Side.

    All take turns; the first prompt runs once more beforehand to warm up.
    """
    _, trial = in_turns([side for group in groups for side in group], [trial_prompts[0], *trial_prompts], advance)
    trials = np.split(trial[:, 1:], np.cumsum([len(group) for group in groups])[:-1])
    return [group[fastest(trial)] for group, trial in zip(groups, trials)], np.concatenate(trials)


def duel(pair, challengers, defenders, trial_prompts, prompts, same_tokens, advance=lambda: None):
    """The best of ``challengers`` over the best of ``defenders``: a cell.

    Each group's best is found on ``trial_prompts``; the ratio is then measured on ``prompts``. ``same_tokens``: both
    are greedy, and where their tokens differ all the same is recorded; else it is None. ``advance()`` hears of every
    run.
    """
    best, trial = choose([challengers, defenders], trial_prompts, advance)
    tokens, seconds = in_turns(best, prompts, advance)
    return {
        "sides": [{"name": side.name, "threads": side.threads} for side in best],
        **speed_ratio(*seconds),
        "differences": differences(pair, prompts, *tokens) if same_tokens else None,
        "trial": [
            {"name": side.name, "threads": side.threads, "tokens_per_second": rate(row)}
            for side, row in zip([*challengers, *defenders], trial)
        ],
    }


def speed_ratio(ours, theirs):
    """How many times as fast ``ours`` is as ``theirs``, seconds a token by prompt: the median with its interval.

    Prompts that either side ended in its first round have no time, and are left out.
    """
    counted = np.isfinite(ours) & np.isfinite(theirs)
    ours, theirs = ours[counted], theirs[counted]
    ratio = metrics.bootstrap_ratio(theirs, ours, np.random.default_rng(0))
    return {
        "ratio": {"estimate": ratio.estimate, "low": ratio.low, "high": ratio.high, "prompts": ratio.pairs},
        "left_out": int((~counted).sum()),
        "tokens_per_second": [rate(ours), rate(theirs)],
        "seconds_per_token": [ours.tolist(), theirs.tolist()],
    }


def rate(seconds):
    """The median tokens per second of seconds a token, those that are not a number left out; None if all are."""
    counted = seconds[np.isfinite(seconds)]
    return float(1 / np.median(counted)) if counted.size else None


def differences(pair, prompts, ours, theirs):
    """Where greedy tokens differ: prompt number, position, and how far apart the target's two largest logits are."""
    found = []
    for number, (prompt, a, b) in enumerate(zip(prompts, ours, theirs)):
        if a != b:
            at = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
            gap = margin(pair, prompt + a[:at])
            found.append({"prompt": number, "position": at, "margin": gap, "tie": gap < TIE})
    return found
