"""What the decode loop asks of a drafter, and what it gets."""

from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import mlx.core as mx

from dspark_lab.sampling import Sampling


@dataclass
class Draft:
    """A proposed continuation of the anchor.

    ``tokens`` (γ,) int32; ``probs`` (γ, vocab) float32: q, the very distributions that the tokens were drawn from;
    ``confidence`` (γ,): c_k, the estimated probability that position k is accepted once those before it are, or None.
    """

    tokens: mx.array
    probs: mx.array
    confidence: mx.array | None = None


@cache
def empty_draft(vocab_size=1):
    """A draft of no tokens; the same one each time, computed at once, for whatever thread asks."""
    draft = Draft(mx.zeros((0,), mx.int32), mx.zeros((0, vocab_size)))
    mx.eval(draft.tokens, draft.probs)
    return draft


class Drafter(Protocol):
    """A drafter holds weights and no state; what it remembers of a text is in a cache that the loop carries.

    ``mode``: the name it goes by in ``generate(mode=...)``. ``draft_length``: the most tokens it can propose in a
    round. ``taps``: the target layers whose outputs ``commit`` is given, side by side; () if it needs none. A drafter
    whose drafts come with a confidence has a ``confidence_head``; the others have no attribute of that name.
    """

    mode: str
    draft_length: int
    taps: tuple[int, ...]

    def new_cache(self) -> Any:
        """A cache for one text, empty."""
        ...

    def propose(self, anchor: int, length: int, cache: Any, sampling: Sampling, key: mx.array) -> Draft:
        """At most ``length`` (at least 1) tokens to follow ``anchor``, the last committed; ``cache`` stays as it is."""
        ...

    def commit(self, tokens: list[int], hidden: mx.array | None, cache: Any) -> None:
        """Remember ``tokens``, committed and seen by the target, whose tapped states are ``hidden``.

        ``hidden`` is (1, len(tokens), len(taps) * hidden_size). The tokens follow those committed before, and the next
        anchor follows them: its own states are not known yet.
        """
        ...

    def trim(self, cache: Any, n: int) -> int:
        """Make ``cache`` forget all but its first ``n`` tokens; returns how many it holds then: n, or a few less."""
        ...


class NoDrafter:
    """Proposes nothing, which makes the loop decode plainly: one pass of the target a token."""

    mode = "baseline"
    draft_length = 0
    taps = ()

    def new_cache(self):
        """Nothing to remember."""
        return None

    def propose(self, anchor, length, cache, sampling, key):
        """An empty draft, whatever the length."""
        return empty_draft()

    def commit(self, tokens, hidden, cache):
        """Nothing to remember."""

    def trim(self, cache, n):
        """Nothing to forget."""
        return n
