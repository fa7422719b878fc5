"""Keys and values of several texts side by side, each row as long as its own text.

After a pass every row is rolled back by what *it* rejected. In mlx-lm's BatchKVCache all rows end in the same column,
and would have to be moved, whole, after every pass. Here all rows begin in the same column, and to forget is to count
less: what lies behind a row's length is hidden by the mask, and overwritten.
"""

import mlx.core as mx
from mlx_lm.models.cache import KVCache, create_attention_mask

STEP = 256  # columns by which the room grows, as in mlx-lm


class RowsKVCache:
    """What an mlx-lm model's layer asks of a cache, for R texts: ``keys``, ``values`` (R, heads, room, head_dim).

    ``lengths``: how many tokens of each row count, a list of ints. Rows are added from KVCaches of single texts.
    """

    def __init__(self):
        self.keys, self.values, self.lengths = None, None, []

    @property
    def offset(self):
        """The positions (R,) at which the rows go on, as RoPE wants them."""
        return mx.array(self.lengths)

    @property
    def state(self):
        """The arrays, for ``mx.eval``."""
        return [] if self.keys is None else [self.keys, self.values]

    def add(self, cache):
        """Take in a text as the last row: its KVCache, which may be empty. Raises ValueError for another kind."""
        if type(cache) is not KVCache:
            raise ValueError(
                f"the model keeps a {type(cache).__name__}; only models whose every layer keeps all its keys and "
                "values (mlx-lm's KVCache) can be decoded in a batch here. Decode their prompts one by one."
            )
        count = len(self.lengths)
        self.keys, self.values = stack(self.keys, cache.keys, count), stack(self.values, cache.values, count)
        self.lengths = [*self.lengths, cache.offset]

    def keep(self, rows):
        """Let all texts go but those in ``rows``, a list of row numbers."""
        self.lengths = [self.lengths[row] for row in rows]
        if self.keys is not None:
            self.keys, self.values = (part[mx.array(rows)] if rows else None for part in (self.keys, self.values))

    def update_and_fetch(self, keys, values):
        """Write ``keys`` and ``values`` (R, heads, n, head_dim) behind each row; all columns up to the longest row."""
        n, end = keys.shape[2], max(self.lengths) + keys.shape[2]
        columns = (self.offset[:, None] + mx.arange(n))[:, None, :, None]  # (R, 1, n, 1)
        self.keys = mx.put_along_axis(with_room(self.keys, keys, end), columns, keys, axis=2)
        self.values = mx.put_along_axis(with_room(self.values, values, end), columns, values, axis=2)
        self.lengths = [length + n for length in self.lengths]
        return self.keys[:, :, :end], self.values[:, :, :end]

    def make_mask(self, n, return_array=False, window_size=None):
        """Who sees what in a pass over ``n`` tokens a row: its own row, up to itself; (R, 1, n, columns) of bool."""
        if len(set(self.lengths)) == 1:  # then the mask of a single text does for all
            return create_attention_mask(n, self.lengths[0], return_array, window_size)
        columns = mx.arange(max(self.lengths) + n)
        positions = (self.offset[:, None] + mx.arange(n))[:, None, :, None]
        mask = columns <= positions
        return mask if window_size is None else mask & (positions < columns + window_size)

    def block_mask(self, n):
        """As ``make_mask``, for a block of ``n`` tokens that also see each other both ways; None: all see all."""
        if len(set(self.lengths)) == 1:
            return None
        return (mx.arange(max(self.lengths) + n) < self.offset[:, None] + n)[:, None, None]

    def is_trimmable(self):
        """Always."""
        return True

    def trim(self, counts):
        """Forget the last ``counts`` tokens: a list, one number a row, or one number for all rows."""
        counts = [counts] * len(self.lengths) if isinstance(counts, int) else counts
        self.lengths = [length - n for length, n in zip(self.lengths, counts)]


def stack(rows, row, count):
    """``rows`` (count, heads, room, head_dim) and ``row`` (1, ...) behind them, in the larger room; None is empty."""
    if rows is None and row is None:
        return None
    known = row if rows is None else rows
    _, heads, _, size = known.shape
    rows, row = (mx.zeros((n, heads, 0, size), known.dtype) if x is None else x for x, n in ((rows, count), (row, 1)))
    room = max(rows.shape[2], row.shape[2])
    return mx.concatenate([mx.pad(x, [(0, 0), (0, 0), (0, room - x.shape[2]), (0, 0)]) for x in (rows, row)])


def with_room(held, new, end):
    """``held`` (R, heads, room, head_dim), or zeros like ``new`` where there is none, with at least ``end`` columns."""
    held = mx.zeros((*new.shape[:2], 0, new.shape[3]), new.dtype) if held is None else held
    missing = end - held.shape[2]
    return held if missing <= 0 else mx.pad(held, [(0, 0), (0, 0), (0, -(-missing // STEP) * STEP), (0, 0)])
