"""Caches that can forget the last tokens of their latest pass: what a rejected draft asks of a target.

The interface is mlx-lm's own: ``entry.trim(n)`` forgets n tokens. A plain key/value cache has it already, since a
shorter one is the same one. Two kinds have not, and each gets a class of its own here, to stand in its place:

- a sliding window's cache overwrites what has left the window, so that going back finds it gone (SlidingCache);
- a recurrent layer folds all tokens into one state, out of which none can be taken (RecurrentCache).
"""

from contextlib import ExitStack, contextmanager
from inspect import signature

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.base import create_causal_mask
from mlx_lm.models.cache import ArraysCache, KVCache

from dspark_lab.standins import StandIn, replaced

SLACK = 256  # tokens a SlidingCache may hold beyond its window before it copies itself smaller
LONGEST_UNDO = 64  # tokens in a pass that RecurrentCache can take back; longer ones are prompts, and stay


class CannotRollBack(ValueError):
    """A cache that cannot forget its last tokens, so that a rejected draft could not be undone."""


class SlidingCache:
    """Keys and values (B, heads, n, head_dim) of the last ``window`` - 1 tokens, and of a pass that follows them.

    ``offset``: how many tokens it has seen. Nothing is overwritten in place: a pass of n tokens leaves the window - 1
    tokens before it where they are, so that any of its own n can be taken back. ``update_and_fetch`` returns what the
    pass can see, at most window - 1 + n tokens, oldest first, as ``make_mask`` assumes.
    """

    def __init__(self, window):
        self.window, self.dropped, self.held = window, 0, KVCache()

    @property
    def offset(self):
        """How many tokens the cache has seen and not forgotten, those that left the window included."""
        return self.dropped + self.held.offset

    def update_and_fetch(self, keys, values):
        """Append a pass; returns the keys and values that its tokens may attend to."""
        surplus = self.held.offset - (self.window - 1)
        if surplus >= SLACK:
            old_keys, old_values = (x[..., surplus:, :] for x in self.held.keys_and_values())
            self.held, self.dropped = KVCache(), self.dropped + surplus
            self.held.update_and_fetch(old_keys, old_values)
        seen = self.window - 1 + keys.shape[2]
        keys, values = self.held.update_and_fetch(keys, values)
        return keys[..., -seen:, :], values[..., -seen:, :]

    def trim(self, n):
        """Forget the last ``n`` tokens, of the latest pass or as far as the slack reaches."""
        if self.held.offset - n < min(self.window - 1, self.offset - n):
            raise CannotRollBack(f"{n} tokens cannot be taken back: what the window held before them is gone")
        return self.held.trim(n)

    def is_trimmable(self):
        """Always, by as much as its latest pass."""
        return True

    def make_mask(self, N, window_size=None, return_array=False):
        """The mask of a pass of ``N`` tokens over what ``update_and_fetch`` will return: None, "causal" or an array."""
        if N == 1:
            return None
        if self.offset + N <= self.window and not return_array:
            return "causal"
        return create_causal_mask(N, min(self.window - 1, self.offset), window_size=self.window)

    @property
    def state(self):
        """What there is to evaluate or to store."""
        return self.held.state, self.window, self.dropped

    @state.setter
    def state(self, state):
        held, self.window, self.dropped = state
        self.held = KVCache.from_state(held)

    def empty(self):
        """Whether it has seen nothing yet."""
        return self.held.empty()

    @property
    def nbytes(self):
        """Bytes of the keys and values, slack included."""
        return self.held.nbytes


class RecurrentCache(ArraysCache):
    """The states of one recurrent part of the layer ``layer``, its attribute ``name``; goes back by replaying.

    The states before the latest pass are kept: they are references to arrays that nobody changes. To forget n of the
    pass's tokens, the part runs again from them over the pass's other tokens. Its projections of its input, which are
    where its weights are read, are not computed again: what they returned is on record. Only the short convolution and
    the recurrence run, and their output goes nowhere.
    """

    def __init__(self, size, layer, name):
        super().__init__(size)
        self.layer, self.name, self._undo = layer, name, None

    @contextmanager
    def recording(self, n):
        """Inside this context the part's pass, of ``n`` tokens, is put on record; a long one's would be too large."""
        if n > LONGEST_UNDO:
            self._undo = None
            yield
            return
        part, before = self.layer[self.name], list(self.cache)
        whole = Recorder(part)
        projections = {key: Recorder(m) for key, m in part.items() if isinstance(m, nn.Linear | nn.QuantizedLinear)}
        with replaced(self.layer, {self.name: whole}), replaced(part, projections):
            yield
        projected = {key: r.output for key, r in projections.items() if r.input is whole.input}
        self._undo = before, whole.input, projected

    def trim(self, n):
        """Forget the last ``n`` tokens of the latest pass; once a pass."""
        if self._undo is None or n > self._undo[1].shape[1]:
            raise CannotRollBack(
                f"a recurrent state cannot go back {n} tokens: only the latest pass, of at most {LONGEST_UNDO} tokens, "
                "can be taken back, and only once"
            )
        (self.cache, inputs, projected), self._undo = self._undo, None
        if kept := inputs.shape[1] - n:
            part = self.layer[self.name]
            with replaced(part, {key: lambda x, y=output: y[:, :kept] for key, output in projected.items()}):
                part(inputs[:, :kept], mask=None, cache=self)
        return n

    def is_trimmable(self):
        """It is, after a pass."""
        return True

    def __deepcopy__(self, memo):
        """A copy of the states that shares the layer."""
        copy = RecurrentCache(len(self.cache), self.layer, self.name)
        copy.cache = [None if state is None else mx.array(state) for state in self.cache]
        return copy


def with_rollback(cache, layers):
    """``cache`` (mlx-lm's or mlx-vlm's entries, empty) with entries that can all forget; ``layers``: the model's.

    Raises CannotRollBack that names the entries for which there is no way here.
    """
    entries = [forgetful(entry, layer) for entry, layer in zip(cache, layers)]
    if kinds := sorted({type(old).__name__ for old, new in zip(cache, entries) if new is None}):
        raise CannotRollBack(
            f"the target keeps {', '.join(kinds)} entries that cannot be rolled back, so rejected drafts could not be "
            "undone; known are full attention, sliding windows that keep no first tokens, and recurrent layers whose "
            'input goes through linear projections. mode="baseline" decodes plainly.'
        )
    return entries


def forgetful(entry, layer):
    """``entry``, or what stands in for it so that it can forget, or None if nothing can."""
    if hasattr(entry, "max_size"):  # a rotating one, which forgets until it has gone round once
        return SlidingCache(entry.max_size) if entry.keep == 0 else None
    if type(entry) is ArraysCache:
        parts = [name for name, part in layer.children().items() if takes_cache(part)]
        return RecurrentCache(len(entry.cache), layer, parts[0]) if len(parts) == 1 else None
    return entry if entry.is_trimmable() else None


def can_be_cut(entry):
    """Whether a cache's entry can go back to any earlier length, beyond its latest pass."""
    if isinstance(entry, SlidingCache):
        return entry.dropped == 0
    return entry.is_trimmable() and not isinstance(entry, RecurrentCache)


def takes_cache(part):
    """Whether ``part`` of a layer is a module that is called with the layer's cache."""
    return isinstance(part, nn.Module) and "cache" in signature(type(part).__call__).parameters


@contextmanager
def recorded(cache, n):
    """Inside this context a pass of ``n`` tokens is put on record by those entries of ``cache`` that need it."""
    with ExitStack() as stack:
        for entry in cache or ():
            if hasattr(entry, "recording"):
                stack.enter_context(entry.recording(n))
        yield


class Recorder(StandIn):
    """Calls its module, and keeps what that got and gave."""

    input = output = None

    def __call__(self, x, *args, **kwargs):
        self.input, self.output = x, self._module(x, *args, **kwargs)
        return self.output
