"""Riddles for notebook 09: a drafter with one fault, and a machine that nobody tells you the name of.

A seed draws what is inside. It is a seal and not a safe: who looks into the object finds the answer.

A faulty drafter raises no error and changes no token, since the target still judges every draft. All that suffers is
acceptance, and how it suffers, position by position, tells the faults apart.
"""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from dspark_lab.cost import expected_tokens
from dspark_lab.curves import SHIPPED, Curve, Line, load_traces
from dspark_lab.pair import Pair


class Faulty:
    """A drafter that leaves everything to a ``healthy`` one, but for what a fault below does otherwise."""

    def __init__(self, healthy):
        self.healthy = healthy

    def __getattr__(self, name):
        return getattr(self.healthy, name)


class AnchorOffByOne(Faulty):
    """Drafts from the token before the anchor: from the last one that it was told of. Its cache is a dict."""

    def new_cache(self):
        """The healthy drafter's cache, and the last token committed."""
        return {"context": self.healthy.new_cache(), "last": None}

    def commit(self, tokens, hidden, cache):
        """Remember the last token, too."""
        self.healthy.commit(tokens, hidden, cache["context"])
        cache["last"] = tokens[-1] if tokens else cache["last"]

    def propose(self, anchor, length, cache, sampling, key):
        """A draft from the wrong anchor; a text's very first token has none before it."""
        stale = anchor if cache["last"] is None else cache["last"]
        return self.healthy.propose(stale, length, cache["context"], sampling, key)

    def trim(self, cache, n):
        """Forget all but ``n`` tokens."""
        return self.healthy.trim(cache["context"], n)


class ShiftedTaps(Faulty):
    """Taps every layer one too early: layer i's input, where its output was meant."""

    @property
    def taps(self):
        """The shifted taps; before layer 0 there is the embedding, -1."""
        return tuple(max(layer - 1, -1) for layer in self.healthy.taps)


class MissingContext(Faulty):
    """Never hears what the target computed: it drafts from the anchor alone."""

    def commit(self, tokens, hidden, cache):
        """Remember nothing."""


WRONG_TARGET = "wrong target"
FAULTS = {
    "anchor off by one": AnchorOffByOne,
    "shifted tap": ShiftedTaps,
    "missing context": MissingContext,
    WRONG_TARGET: None,  # no fault of the drafter's: it stands beside a target that it was not made for
}


def with_fault(fault, own, other):
    """A Pair with a drafter that has ``fault``, a key of FAULTS, in its default mode.

    ``own``: the Pair whose target the drafter was made for; ``other``: a Pair of a target of the same shape with the
    same drafter. Raises ValueError for a fault there is not.
    """
    if fault not in FAULTS:
        raise ValueError(f"there is no fault {fault!r}; give one of {', '.join(FAULTS)}")
    pair = other if fault == WRONG_TARGET else own
    mode = own.default_mode
    drafter = pair.drafter(mode) if fault == WRONG_TARGET else FAULTS[fault](pair.drafter(mode))
    return replace(pair, name="sealed", drafters={mode: drafter}, folders={})


@dataclass(frozen=True)
class Case:
    """A ``pair`` with one fault, which ``reveal()`` names; to be examined with no more than its Rounds."""

    pair: Pair = field(repr=False)
    _fault: str = field(repr=False)

    def reveal(self):
        """The fault's name, a key of FAULTS."""
        return self._fault


def case(seed, own, other):
    """A Case whose fault the whole number ``seed`` draws; ``own`` and ``other`` as for `with_fault`."""
    fault = str(np.random.default_rng(seed).choice(list(FAULTS)))
    return Case(with_fault(fault, own, other), fault)


# What a draft of n tokens reads, in plain passes of the target: of a Qwen3-4B's 4.0 billion weights a block drafter of
# five layers reads about a quarter, its output head included, and the Markov head a fiftieth a token; EAGLE-3's one
# layer and the output head, for every token, an eighth. Prompt lookup reads none.
DRAFT_PASSES = {
    "baseline": lambda n: 0.0,
    "lookup": lambda n: 0.0,
    "dspark": lambda n: 0.25 + 0.02 * n,
    "dflash": lambda n: 0.25,
    "dflash16": lambda n: 0.25,
    "eagle3": lambda n: 0.125 * n,
}
PRICES = (0.5, 1.0, 2.0)  # drafts may be cheaper or dearer than their weights say
CURVES = (  # cost traces that ship; named one by one, so that a further one changes no riddle
    "lab-float32-amd-epyc-openblas",
    "lab-float32-amd-epyc-reference",
    "published-m4-pro-gemma4-12b",
    "study-h100-qwen3-4b-4-bit",
    "study-h100-qwen3-4b-8-bit",
    "study-h100-qwen3-4b-bfloat16",
)


class Drafting(NamedTuple):
    """How a mode fares on some text: the ``share`` of rounds in which it drafts anything, and α_1 .. α_γ when it does.

    A drafter with weights nearly always drafts (a text's last token needs none). Prompt lookup often finds nothing, and
    such a round is a plain one.
    """

    share: float
    acceptance: tuple[float, ...]

    @classmethod
    def recorded(cls, cell):
        """From a rollouts cell of traces/acceptance.json."""
        rates = cell["conditional_acceptance"]
        return cls(rates[0]["trials"] / cell["rounds"], tuple(rate["estimate"] for rate in rates))

    def tokens(self, draft_length):
        """Expected tokens a round with drafts of this length."""
        return 1 + self.share * (expected_tokens(self.acceptance, draft_length) - 1)


@dataclass(frozen=True)
class Machine:
    """A recorded verify curve (seconds by tokens of a pass) and a made-up price of drafts, sealed until ``reveal()``.

    ``_verify``: a Curve or Line; ``_price``: what DRAFT_PASSES is multiplied by; ``_name``: whose curve it is.
    """

    _verify: Curve | Line = field(repr=False)
    _price: float = field(repr=False)
    _name: str = field(repr=False)

    def round(self, mode, draft_length):
        """Seconds of a round of ``mode`` that drafts and verifies ``draft_length`` tokens; 0 is a plain pass."""
        if mode not in DRAFT_PASSES:
            raise ValueError(f"mode is {mode!r}; this machine knows {', '.join(DRAFT_PASSES)}")
        draft = self._price * DRAFT_PASSES[mode](draft_length) * self._verify(1) if draft_length else 0.0
        return draft + self._verify(draft_length + 1)

    def speed(self, mode, drafting, draft_length):
        """Expected tokens a second of ``mode``, which fares as ``drafting`` (a Drafting) says."""
        seconds = drafting.share * self.round(mode, draft_length) + (1 - drafting.share) * self.round(mode, 0)
        return drafting.tokens(draft_length) / seconds

    def speeds(self, draftings):
        """Mode -> {draft length: expected tokens a second}, from mode -> Drafting; length 0 is plain decoding."""
        lengths = {mode: range(len(drafting.acceptance) + 1) for mode, drafting in draftings.items()}
        return {mode: {n: self.speed(mode, draftings[mode], n) for n in row} for mode, row in lengths.items()}

    def best(self, draftings):
        """The mode, draft length and tokens a second that are highest in `speeds`; "baseline" and 0 if none pays."""
        options = [(mode, n, rate) for mode, row in self.speeds(draftings).items() for n, rate in row.items()]
        mode, length, rate = max(options, key=lambda option: option[2])
        return (mode, length, rate) if length else ("baseline", 0, rate)

    def priced(self, mode, rounds):
        """Tokens a second of Rounds of ``mode`` that ran elsewhere, each at this machine's price."""
        return sum(r.accepted_length for r in rounds) / sum(self.round(mode, r.draft_length) for r in rounds)

    def reveal(self):
        """Whose curve it is, and what drafts cost on it."""
        return f"{self._name}; drafts at {self._price:g} times what their weights say"


def machine(seed):
    """A Machine whose curve, one of CURVES, and price the whole number ``seed`` draws."""
    rng = np.random.default_rng(seed)
    trace = load_traces(SHIPPED)[CURVES[rng.integers(len(CURVES))]]
    model, stamp = trace.settings, trace.stamp
    blas = {"openblas": " with OpenBLAS", "reference": " with the reference BLAS"}.get(stamp.get("blas"), "")
    source = f"published by {trace.published}" if trace.published else f"measured {stamp['date'][:10]}"
    name = f"{model['model']} in {model['precision']}, {stamp['processor']}{blas}, {source}"
    return Machine(trace.verify, float(rng.choice(PRICES)), name)
