"""What a round costs on this machine, and how fast each draft length can therefore be.

L = (T_draft + T_verify) / τ (paper, section 2): what a draft saves depends as much on the price of one more verified
token as on its acceptance. On some machines verifying is a bus (eight tokens cost little more than one), on others a
taxi (each costs the same), and on a few a staircase. So it is measured, never assumed, and remembered in the user's
cache folder per machine, model, precision, threads and versions.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, islice
from operator import mul
from time import perf_counter

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from dspark_lab.bench.record import Record, machine_stamp
from dspark_lab.curves import Costs, Curve, own_folder
from dspark_lab.decode import decode, prefill
from dspark_lab.drafters.protocol import NoDrafter
from dspark_lab.sampling import Sampling
from dspark_lab.schedule import Cap, Schedule

CONTEXT, REPEATS = 128, 15  # tokens before the pass; times that each length is measured
PHRASE = 24  # tokens, repeated to fill the context, so that prompt lookup finds something to draft


def measure_verify_cost(pair, tokens=range(1, 33), *, context=CONTEXT, again=False):
    """A Curve: seconds of the target's pass by its number of ``tokens``, after ``context`` tokens; remembered.

    ``again``: measure it anew. Its ``line`` has intercept and slope where it is one. See `time_verifying`.
    """
    tokens = sorted(tokens)
    name = "verify" if (tokens, context) == (list(range(1, 33)), CONTEXT) else f"verify/{context}/{tokens}"
    measure = partial(time_verifying, pair.target, tokens, context=context)
    return Curve.from_dict(remembered(pair, name, measure, again))


def measure_costs(pair, mode=None, *, again=False):
    """The `Costs` of a round of ``mode`` (None: the pair's best), by draft length; remembered. See `time_rounds`.

    ``again``: measure them anew. The first time takes as long as some hundreds of rounds.
    """
    mode = pair.resolve(mode)
    return Costs.from_dict(remembered(pair, f"rounds/{mode}", partial(time_rounds, pair, mode), again))


def remembered(pair, name, measure, again):
    """The cell ``name`` of this machine's and model's cost file: as it stands there, or what ``measure()`` finds."""
    stamp = machine_stamp()
    settings = {"model": pair.name, "precision": precision(pair.target.model), "shapes": fingerprint(pair)}
    settings |= {"context": CONTEXT, "blas_threads": stamp["blas_threads"]}
    words = [*settings.values(), stamp["device"], stamp["blas"], stamp["mlx"]]
    record = Record(own_folder() / f"{slug(*words)}.json", stamp | {"weights": {}}, settings)
    if again:
        record.cells.pop(name, None)
    return record.cell(name, lambda: measure().to_dict())


def precision(model):
    """How ``model`` keeps its weights, in a word: "8-bit", "bfloat16", "float32"."""
    bits = {module.bits for _, module in model.named_modules() if hasattr(module, "bits")}
    if bits:
        return "-".join(f"{n}-bit" for n in sorted(bits))
    return str(tree_flatten(model.parameters())[0][1].dtype).removeprefix("mlx.core.")


def fingerprint(pair):
    """Eight characters that tell pairs apart by the shapes and types of their weights, on which all costs depend."""
    parts = [pair.target.model, *(pair.drafters[mode] for mode in pair.folders if mode != "target")]
    shapes = [
        (name, array.shape, str(array.dtype)) for part in parts for name, array in tree_flatten(part.parameters())
    ]
    return hashlib.sha256(repr(shapes).encode()).hexdigest()[:8]


def slug(*words):
    """``words`` as a file name; those that are None are left out."""
    kept = " ".join(str(word) for word in words if word is not None)
    return re.sub(r"[^a-z0-9.]+", "-", kept.lower()).strip("-")


def expected_tokens(acceptance, draft_length):
    """E[τ] = 1 + a_1 + ... + a_γ; ``acceptance``: α_k by position, or one number for all of them."""
    alphas = list(acceptance) if isinstance(acceptance, Sequence | np.ndarray) else [acceptance] * draft_length
    if len(alphas) < draft_length:
        raise ValueError(f"acceptance has {len(alphas)} positions; a draft of {draft_length} needs one for each")
    return sum(accumulate(alphas[:draft_length], mul, initial=1.0))


def speedup(acceptance, costs, draft_length):
    """How many times as many tokens a second drafts of ``draft_length`` give as plain rounds of the same loop.

    ``acceptance``: conditional, α_1 .. α_γ or one number; ``costs``: `Costs`.
    """
    return expected_tokens(acceptance, draft_length) * costs.round(0) / costs.round(draft_length)


def best_length(acceptance, costs):
    """The static draft length, 0 to what acceptance and costs are known for, with the highest `speedup`.

    Acceptance seen in long drafts is a little low for short ones, whose rounds begin elsewhere (`bench/auto.py`).
    """
    known = min(costs.longest, len(acceptance)) if isinstance(acceptance, Sequence | np.ndarray) else costs.longest
    return max(range(known + 1), key=lambda length: speedup(acceptance, costs, length))


def ceiling(costs):
    """The `speedup` of a drafter that is always right, at its best length: no training can go beyond it."""
    return max(speedup(1.0, costs, length) for length in range(costs.longest + 1))


@dataclass(frozen=True)
class InTurn(Schedule):
    """Drafts the given ``lengths``, one a round, and verifies whole drafts; ``reads_draft``: once it has read them."""

    lengths: tuple[int, ...]
    reads_draft: bool

    @property
    def max_draft(self):
        """The next length."""
        return self.lengths[0]

    def admit(self, k, survival):
        """Always."""
        return True

    def after(self, round):
        """The rest of them."""
        return replace(self, lengths=self.lengths[1:]) if len(self.lengths) > 1 else self


class RoundClock:
    """Times rounds of ``mode`` in the decode loop itself, every draft length from 0 on, one after the other.

    The prompt is a phrase of the target's own, again and again: what is drafted hardly matters for what it costs, but
    prompt lookup has to find something. (Sorting for top_p does matter; give its ``sampling`` to include it.) ``seed``
    draws the phrase's beginning and the orders.
    """

    def __init__(self, pair, mode, *, context=CONTEXT, sampling=None, seed=0):
        self.target, self.drafter, self.sampling = pair.target, pair.drafter(mode), sampling or Sampling()
        self.longest, self.rng = self.drafter.draft_length, np.random.default_rng(seed)
        self.most = (self.longest + 1) * (self.longest + 2) + 2  # tokens, if every draft were accepted
        self.prompt = repetitive_prompt(self.target, context, self.most, self.rng)
        self.runs = [[] for _ in range(4)]  # of drafts, passes, rests and unread rounds: in each run, count -> seconds

    def run(self):
        """Twice through all lengths, in orders drawn anew, so that what drifts meanwhile touches all alike.

        Once every draft is read before its pass begins, for only then do draft and pass have times of their own. Once
        none is, as in the loop where the schedule does not ask for it.
        """
        read, unread = list(self.rounds(reads_draft=True)), self.rounds(reads_draft=False)
        draft = {r.draft_length: r.draft_seconds for r in read}
        verify = {r.scheduled + 1: r.verify_seconds for r in read}
        rest = {r.draft_length: r.other_seconds for r in read}
        for runs, found in zip(self.runs, (draft, verify, rest, {r.draft_length: r.seconds for r in unread})):
            runs.append(found)

    def rounds(self, reads_draft):
        """A Round of every length.

        Plain rounds come in threes, of which the one between two others counts: it was begun early, and begins the next
        (`decode.Leader`). A first round, into which the prompt's context update falls, is left out.
        """
        order = self.rng.permutation(self.longest + 1).tolist()
        lengths = [self.longest, *(length for n in order for length in [n] * (1 if n else 3))]
        schedule = InTurn(tuple(lengths), reads_draft)
        settings = {"sampling": self.sampling, "schedule": schedule, "max_tokens": self.most}
        rounds = decode(self.target, self.drafter, self.prompt, key=mx.random.key(0), **settings)
        for before, n, after, r in zip(lengths, lengths[1:], [*lengths[2:], None], islice(rounds, 1, len(lengths))):
            if n or before == after == 0:
                yield r

    def costs(self):
        """`Costs` from all runs but the first, which warmed up: medians and quartiles, `without_drift`.

        What not reading a draft saves is the same at every length, so one number is taken from all of them. A drafter
        that proposed less than it was asked for leaves numbers of tokens that no pass had; then all passes are timed by
        themselves.
        """
        draft, verify, rest, unread = (Curve.of(without_drift(runs[1:] or runs)) for runs in self.runs)
        if len(verify.counts) <= self.longest:
            verify = time_verifying(self.target, range(1, self.longest + 2), context=len(self.prompt))
        costs = Costs(draft, verify, rest, self.longest)
        saved = [costs.round(n) - unread(n) for n in unread.counts if n]
        return replace(costs, wait=max(0.0, float(np.median(saved)))) if saved else costs


def time_rounds(pair, mode, *, context=CONTEXT, repeats=REPEATS):
    """`Costs` of ``mode`` from a RoundClock that has run ``repeats`` times and once to warm up."""
    clock = RoundClock(pair, mode, context=context)
    for _ in range(repeats + 1):
        clock.run()
    return clock.costs()


def time_verifying(target, tokens=range(1, 33), *, context=CONTEXT, repeats=REPEATS, seed=0):
    """A Curve: seconds of a pass over each number of ``tokens`` after ``context`` others, alone in a tight loop.

    A pass is what the loop's is: the target's own tokens, greedy, waited for. The numbers are taken in an order
    drawn anew each time; the first time warms up.
    """
    rng, cache, rule = np.random.default_rng(seed), target.new_cache(), Sampling()
    prompt = repetitive_prompt(target, context, max(tokens), rng)
    prefill(target, NoDrafter(), prompt, cache, None)
    runs = [{} for _ in range(repeats + 1)]
    for spent in runs:
        for n in rng.permutation(tokens).tolist():
            ids = rng.integers(target.vocab_size, size=n).tolist()
            start = perf_counter()
            logits, _ = target.forward(ids, cache)
            mx.eval(rule.gist(logits))
            spent[n] = perf_counter() - start
            target.rollback(cache, n)
    return Curve.of(without_drift(runs[1:]))


def without_drift(runs):
    """``runs``, a list of count -> seconds, as count -> list of seconds, each divided by how slow its run was.

    A machine shared with others is faster now and slower then, for seconds on end: all counts of a run alike. How slow
    a run was is the median over its counts of seconds over the count's own median, in proportion to the mean of all
    runs: a text is decoded through fast and slow times, and takes their mean. The times of a single count stay what
    they are: nothing tells how slow their runs were.
    """
    counts = sorted(set().union(*runs))
    table = np.array([[run.get(n, np.nan) for n in counts] for run in runs])  # (runs, counts); not each has them all
    if len(counts) == 1:
        return {counts[0]: table[:, 0].tolist()}
    slowness = np.nanmedian(table / np.nanmedian(table, axis=0), axis=1)
    table /= (slowness / slowness.mean())[:, None]
    return {n: column[~np.isnan(column)].tolist() for n, column in zip(counts, table.T)}


def repetitive_prompt(target, context, more, rng):
    """``context`` token ids, a phrase again and again. Raises ValueError if ``more`` do not fit behind them."""
    if target.context_length is not None and context + more > target.context_length:
        raise ValueError(
            f"context is {context}; the target's {target.context_length} leave room for "
            f"{max(target.context_length - more, 0)} before the {more} tokens that are measured"
        )
    start, greedy = rng.integers(target.vocab_size, size=PHRASE // 4).tolist(), {"sampling": Sampling()}
    said = decode(target, NoDrafter(), start, schedule=Cap(0), max_tokens=PHRASE, key=mx.random.key(0), **greedy)
    phrase = [token for r in said for token in r.committed]
    return (phrase * (context // PHRASE + 1))[:context]
