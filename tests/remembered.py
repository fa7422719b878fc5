"""A target and a block drafter that compute each of their passes once.

A text of three tokens with three choices each has a few dozen prefixes, and the networks are functions of the prefix.
So thousands of short decodes need only a few dozen passes; the loop, the draws and the accept rule run every time.
"""

import mlx.core as mx
from fakes import Tape


class RememberedTarget:
    """A Target whose passes are remembered by the text that they follow; its cache is that text."""

    def __init__(self, target):
        self.target, self.passes = target, {}

    def new_cache(self, rollback=True):
        return [Tape()]

    def forward(self, tokens, cache, taps=()):
        held, tokens = cache[0].tokens, mx.array(tokens).tolist()
        place = (*held,), (*tokens,), taps
        if place not in self.passes:
            real = self.target.new_cache()
            if held:
                self.target.forward(held, real)
            self.passes[place] = self.target.forward(tokens, real, taps)
            mx.eval([part for part in self.passes[place] if part is not None])
        held.extend(tokens)
        return self.passes[place]

    def rollback(self, cache, n):
        del cache[0].tokens[len(cache[0].tokens) - n :]


class RememberedDrafter:
    """A block drafter whose block states are remembered by the text that they follow; all else is its own."""

    def __init__(self, drafter, target):
        self.drafter, self.target, self.blocks = drafter, target, {}

    def __getattr__(self, name):
        return getattr(self.drafter, name)

    def new_cache(self):
        return []

    def commit(self, tokens, hidden, cache):
        cache.extend(tokens)

    def draft_states(self, anchor, cache):
        if (*cache, anchor) not in self.blocks:
            real = self.drafter.new_cache()
            if cache:
                _, hidden = self.target.forward(cache, self.target.new_cache(), self.drafter.taps)
                self.drafter.commit(cache, hidden, real)
            self.blocks[*cache, anchor] = self.drafter.draft_states(anchor, real)
            mx.eval(self.blocks[*cache, anchor])
        return self.blocks[*cache, anchor]

    def propose(self, *arguments):
        return type(self.drafter).propose(self, *arguments)
