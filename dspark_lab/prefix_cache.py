"""Earlier turns, kept: what a prompt has in common with one of them need not go through the models again.

A chat sends its whole history with every turn. The caches that the last turn left behind hold that history already, so
that only what is new has to be computed. A text that shares no more than its beginning with an earlier one (the same
instructions, an edited question) goes on from a copy of that beginning.

Nothing that was kept is trusted: see ``seal``.
"""

import copy
import json
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from dspark_lab.decode import decode, new_caches, prefill
from dspark_lab.shelf import Shelf, pack, remove


@dataclass(eq=False)
class Kept:
    """A text whose caches are kept: ``tokens``, and the target's and ``mode``'s drafter's ``caches`` that hold them.

    ``mode``: the drafter's name in the pair, of which several may be of one kind.

    ``caches`` is None while they are on disk alone, in ``file``, and ``file`` is None while they are in memory alone.
    ``trimmable``: whether they can be cut down to a prefix; otherwise they serve a text that begins with all of it.
    """

    mode: str
    tokens: list[int]
    trimmable: bool
    nbytes: int
    seal: str
    caches: Any = None
    file: Any = None


@dataclass
class Counts:
    """What a PrefixCache has done: ``lookups``, of which ``hits`` reused ``reused_tokens`` of ``prompt_tokens``.

    ``damaged``: kept caches that turned out not to be what was put there, and were thrown away; ``evicted``: texts
    forgotten for want of room.
    """

    lookups: int = 0
    hits: int = 0
    prompt_tokens: int = 0
    reused_tokens: int = 0
    damaged: int = 0
    evicted: int = 0


class PrefixCache:
    """The caches of earlier texts of ``pair``, for ``generate(..., prefix_cache=...)``.

    At most ``max_bytes`` of them stay in memory, the least recently used leave first. With a ``folder`` each is written
    to disk as well, at most ``max_disk_bytes`` in all, and is found there after a restart: by the same weights, library
    versions and kind of device only. The files hold the conversations in the clear: the folder is the reader's to keep
    private. Not for several threads at once.
    """

    def __init__(self, pair, max_bytes=2**30, folder=None, max_disk_bytes=2**33):
        self.pair, self.max_bytes, self.counts = pair, max_bytes, Counts()
        self.shelf = None if folder is None else Shelf(folder, pair, max_disk_bytes)
        self.kept = (
            [] if folder is None else [Kept(**found) for found in self.shelf.find()]
        )  # least recently used first

    def __len__(self):
        """How many texts are kept, in memory or on disk."""
        return len(self.kept)

    @property
    def nbytes(self):
        """Bytes of the caches in memory."""
        return sum(kept.nbytes for kept in self.kept if kept.caches)

    def decode(self, mode, prompt, **options):
        """``decode`` with ``mode``'s drafter, from the longest kept prefix on; afterwards the whole text is kept.

        It is kept too when the generator is closed early, but not when a pass is interrupted half-way. Caches that
        cannot be trimmed are kept at the end of the prompt as well, where another turn may branch off.
        """
        target, drafter = self.pair.target, self.pair.drafter(mode)
        held, caches = self.take(mode, prompt[:-1])
        prefill(target, drafter, prompt[held:-1], *caches)
        if not trimmable(caches):
            self.put(mode, prompt[:-1], copy.deepcopy(caches))
        text = list(prompt)
        try:
            with closing(decode(target, drafter, prompt[-1:], caches=caches, **options)) as rounds:
                for r in rounds:
                    text += r.committed
                    yield r
        except GeneratorExit:
            pass  # closed between two rounds; once decode is closed too, both caches are whole
        self.put(mode, text[:-1], caches)

    def take(self, mode, tokens):
        """How many of the first ``tokens`` some caches hold, and those caches (target's, drafter's), the caller's own.

        Kept caches of which all tokens are used are handed out themselves; they come back with ``put``.
        """
        self.counts.lookups += 1
        self.counts.prompt_tokens += len(tokens)
        for shared, kept in self.candidates(mode, tokens):
            if not self.intact(kept):
                self.counts.damaged += 1
                self.forget(kept)
                continue
            held, caches = self.hand_out(kept, shared)
            self.counts.hits += held > 0
            self.counts.reused_tokens += held
            return held, caches
        return 0, self.empty(mode)

    def empty(self, mode):
        """Caches that hold nothing."""
        return new_caches(self.pair.target, self.pair.drafter(mode))

    def candidates(self, mode, tokens):
        """``(shared, kept)`` for the kept texts of ``mode`` that can serve ``tokens``, the longest prefix first.

        Of equals the latest used comes first: a stranger, who shares a chat template's first tokens with everybody,
        must not make the oldest conversation young again.
        """
        found = [(common_prefix(kept.tokens, tokens), kept) for kept in reversed(self.kept) if kept.mode == mode]
        usable = [(n, kept) for n, kept in found if n and (kept.trimmable or n == len(kept.tokens))]
        return sorted(usable, key=lambda pair: pair[0], reverse=True)

    def intact(self, kept):
        """Whether ``kept``'s caches are what was put there; those on disk are brought into memory."""
        if kept.caches is None:
            kept.caches = self.shelf.read(kept.file, self.empty(kept.mode))
        return kept.caches is not None and seal(kept.tokens, kept.caches) == kept.seal

    def hand_out(self, kept, n):
        """``(held, caches)`` of ``kept``, all of it or a copy of its first ``n`` tokens; it is now the latest used."""
        caches, whole = kept.caches, n == len(kept.tokens)
        self.kept.remove(kept)
        if not whole:
            n, caches = beginning(caches, self.pair.drafter(kept.mode), n, len(kept.tokens))
        else:
            kept.caches = None
        if not whole or kept.file:
            self.kept.append(kept)
        self.make_room()
        return n, caches

    def put(self, mode, tokens, caches):
        """Keep ``caches``, which hold ``tokens`` and are no longer the caller's, in the place of shorter versions."""
        if not tokens:
            return
        new = Kept(mode, list(tokens), trimmable(caches), nbytes(caches), "", caches)
        new.seal = seal(new.tokens, caches)
        for old in [old for old in self.kept if old.mode == new.mode]:
            shared = common_prefix(old.tokens, new.tokens)
            if shared == len(old.tokens) and (new.trimmable or shared == len(new.tokens)):
                self.forget(old)
        if self.shelf:
            new.file = self.shelf.write(new)
        self.kept.append(new)
        self.make_room()

    def make_room(self):
        """Let the least recently used caches go until memory and disk are within their limits."""
        gone = self.shelf.make_room() if self.shelf else ()
        for kept in self.kept:
            kept.file = None if kept.file in gone else kept.file
        excess = self.nbytes - self.max_bytes
        for kept in [kept for kept in self.kept if kept.caches]:
            if excess > 0:
                kept.caches, excess = None, excess - kept.nbytes
        forgotten = [kept for kept in self.kept if not kept.caches and not kept.file]
        self.counts.evicted += len(forgotten)
        self.kept = [kept for kept in self.kept if kept not in forgotten]

    def forget(self, kept):
        """Throw ``kept`` away, its file too."""
        self.kept.remove(kept)
        if kept.file:
            remove(kept.file)


def common_prefix(a, b):
    """How many tokens two lists have in common at their beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def trimmable(caches):
    """Whether both of ``caches`` can be cut down to any of their first tokens."""
    from dspark_lab.rollback import can_be_cut

    entries = [entry for cache in caches if isinstance(cache, list) for entry in cache]
    return all(can_be_cut(entry) for entry in entries if hasattr(entry, "is_trimmable"))


def beginning(caches, drafter, n, length):
    """A copy of ``caches``, which hold ``length`` tokens, cut to their first ``n``, or as few as the drafter can keep.

    Returns the number of tokens and the copy. Only what is kept of plain key/value caches is copied.
    """
    from mlx_lm.models.cache import KVCache

    cache, draft_cache = copy.deepcopy(caches)
    held = drafter.trim(draft_cache, n)
    for entry in cache:
        entry.trim(length - held)
        if type(entry) is KVCache:
            entry.keys, entry.values = entry.keys_and_values()
    return held, (cache, draft_cache)


def nbytes(caches):
    """Bytes of all arrays in ``caches``."""
    return sum(array.nbytes for array in pack(caches)[1].values())


def seal(tokens, caches):
    """What tells ``caches`` that hold ``tokens`` from others: their lengths, shapes and a sum over all of their bits.

    A kept cache whose seal has changed is thrown away and its tokens are computed anew. The sums cost a pass over the
    caches, far less than what they save; they show accidents, they are no defence against forgery.
    """
    skeleton, arrays = pack(caches)
    sums = [mx.sum(array.view(UNSIGNED[array.itemsize])) for array in arrays.values() if array.size]
    mx.eval(sums)
    return json.dumps([tokens, skeleton, [total.item() for total in sums]])


UNSIGNED = {1: mx.uint8, 2: mx.uint16, 4: mx.uint32, 8: mx.uint64}
