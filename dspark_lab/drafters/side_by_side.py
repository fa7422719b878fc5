"""Drafters for several texts at once, each text a row: what a batch asks of them, and two ways of doing it."""

import mlx.core as mx

from dspark_lab.drafters.protocol import Draft, empty_draft
from dspark_lab.rows import RowsKVCache


def side_by_side(drafter):
    """``drafter`` for rows: block drafters whose layers see everything draft for all in one pass, others row by row."""
    together = hasattr(drafter, "draft_states_of_rows") and not any((*drafter.config.windows, *drafter.config.causal))
    return Together(drafter) if together and drafter.config.draft_window is None else Separately(drafter)


class Separately:
    """Any drafter, with a cache of its own for every row."""

    def __init__(self, drafter):
        self.drafter, self.caches = drafter, []

    def add(self, cache):
        """Take in a text as the last row, with what the drafter remembers of it."""
        self.caches.append(cache)

    def keep(self, rows):
        """Let all texts go but those in ``rows``, a list of row numbers."""
        self.caches = [self.caches[row] for row in rows]

    def propose(self, anchors, lengths, sampling, keys):
        """Drafts of at most ``lengths`` tokens after ``anchors`` (lists of ints), each drawn with its row of ``keys``.

        Returns one Draft whose arrays have a further first axis, the row, and are padded with zeros to the longest
        draft; and the drafts' true lengths, a list.
        """
        drafts = [
            self.drafter.propose(anchor, length, cache, sampling, key) if length else empty_draft()
            for anchor, length, cache, key in zip(anchors, lengths, self.caches, keys)
        ]
        return pad(drafts), [draft.tokens.size for draft in drafts]

    def commit(self, tokens, hidden):
        """Remember each row's ``tokens`` (lists), whose states are the first of its row of ``hidden``.

        ``hidden`` is (R, n, taps * hidden_size), or None for a drafter without taps.
        """
        for row, (own, cache) in enumerate(zip(tokens, self.caches)):
            self.drafter.commit(own, None if hidden is None else hidden[row : row + 1, : len(own)], cache)


class Together:
    """A block drafter: one pass of its layers over all rows, whose contexts lie in one RowsKVCache a layer."""

    def __init__(self, drafter):
        self.drafter, self.cache = drafter, [RowsKVCache() for _ in drafter.layers]

    def add(self, cache):
        """As ``Separately``'s."""
        for rows, layer in zip(self.cache, cache):
            rows.add(layer)
        mx.eval([rows.state for rows in self.cache])

    def keep(self, rows):
        """As ``Separately``'s."""
        for layer in self.cache:
            layer.keep(rows)

    def propose(self, anchors, lengths, sampling, keys):
        """As ``Separately``'s; the heads draw for all rows of equal length at once."""
        if not max(lengths):
            return empty_rows(len(anchors)), lengths
        anchors = mx.array(anchors)
        states = self.drafter.draft_states_of_rows(anchors, self.cache)[:, : max(lengths)]

        def read(n, anchors, states, base_logits, keys):
            drawn = self.drafter.read(anchors, states[:, :n], base_logits[:, :n], sampling, keys)
            return [part for part in drawn if part is not None]

        drawn = [max(n, 1) for n in lengths]  # nobody looks at a draft of length 0
        return Draft(*by_length(read, drawn, anchors, states, self.drafter.base_logits(states), keys)), lengths

    def commit(self, tokens, hidden):
        """As ``Separately``'s: all columns go in, and each row forgets those that are not its own."""
        self.drafter.commit(tokens, hidden, self.cache)
        for layer in self.cache:
            layer.trim([hidden.shape[1] - len(own) for own in tokens])


def by_length(function, lengths, *arrays):
    """``function(n, *arrays)`` for the rows of ``arrays`` whose n of ``lengths`` is the same, for each such n.

    Returns the arrays (R, ...) of its results in the order of the rows, padded with zeros where n decides their length.
    The key of a row is used as it would be if the row were alone, whatever its neighbours' lengths: that is why rows
    of different n are not drawn in one call.
    """
    groups = [[i for i, n in enumerate(lengths) if n == length] for length in sorted(set(lengths))]
    if len(groups) == 1:
        return function(lengths[0], *arrays)
    picked = [[array[mx.array(rows)] for array in arrays] for rows in groups]
    results = [function(lengths[rows[0]], *parts) for rows, parts in zip(groups, picked)]
    order = [i for rows in groups for i in rows]
    back = mx.array(sorted(range(len(order)), key=order.__getitem__))
    return [join(parts)[back] for parts in zip(*results)]


def join(parts):
    """Arrays (R_i, n_i, ...) as one (sum of R_i, largest n_i, ...), padded with zeros; arrays (R_i,) as they are."""
    if parts[0].ndim == 1:
        return mx.concatenate(parts)
    longest = max(part.shape[1] for part in parts)
    return mx.concatenate([mx.pad(p, [(0, 0), (0, longest - p.shape[1])] + [(0, 0)] * (p.ndim - 2)) for p in parts])


def pad(drafts):
    """One Draft of ``drafts``, with a further first axis, padded with zeros to the longest."""
    drawn = [draft for draft in drafts if draft.tokens.size]
    if not drawn:
        return empty_rows(len(drafts))
    nothing = Draft(mx.zeros((0,), mx.int32), mx.zeros((0, drawn[0].probs.shape[-1])), mx.zeros((0,)))
    rows = [draft if draft.tokens.size else nothing for draft in drafts]
    fields = ("tokens", "probs") if drawn[0].confidence is None else ("tokens", "probs", "confidence")
    return Draft(*(join([getattr(row, field)[None] for row in rows]) for field in fields))


def empty_rows(count):
    """A Draft of no tokens for ``count`` rows."""
    return Draft(mx.zeros((count, 0), mx.int32), mx.zeros((count, 0, 1)))
