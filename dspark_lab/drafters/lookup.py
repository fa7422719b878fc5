"""Prompt lookup: draft what followed the last time the text's latest tokens occurred in it. No weights."""

import mlx.core as mx

from dspark_lab.drafters.protocol import Draft, empty_draft
from dspark_lab.sampling import one_hot


class Lookup:
    """Proposes the continuation of the latest earlier occurrence of the text's last ``max_ngram`` tokens, or fewer.

    The proposal is certain, so its q is one-hot: at temperature above 0 it is accepted with probability p.
    """

    mode = "lookup"
    taps = ()

    def __init__(self, vocab_size, draft_length=7, max_ngram=3):
        self.vocab_size, self.draft_length, self.max_ngram = vocab_size, draft_length, max_ngram

    def new_cache(self):
        """The committed tokens."""
        return []

    def commit(self, tokens, hidden, cache):
        """Remember the tokens; nothing of the target's states is used."""
        cache.extend(tokens)

    def trim(self, cache, n):
        """Forget all tokens but the first ``n``."""
        del cache[n:]
        return n

    def propose(self, anchor, length, cache, sampling, key):
        """What followed the same n-gram before, or nothing."""
        found = self.follow([*cache, anchor])[:length]
        if not found:
            return empty_draft(self.vocab_size)
        tokens = mx.array(found)
        return Draft(tokens, one_hot(tokens, self.vocab_size))

    def follow(self, text):
        """The tokens after the latest earlier occurrence of the longest n-gram that ends ``text`` (a list)."""
        for n in range(min(self.max_ngram, len(text) - 1), 0, -1):
            for start in range(len(text) - n - 1, -1, -1):
                if text[start : start + n] == text[-n:]:
                    return text[start + n : start + n + self.draft_length]
        return []
