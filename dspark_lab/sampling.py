"""From logits to tokens: probabilities, the accept rule, the residual.

The whole of lossless speculative sampling is in ``acceptance``, ``residual`` and ``judge``. p and q are always float32,
whatever the weights' type: a softmax over 150,000 tokens in bfloat16 can be off by a total variation of 0.05.
"""

from dataclasses import dataclass
from functools import partial
from numbers import Integral

import mlx.core as mx


@dataclass(frozen=True)
class Sampling:
    """How logits become probabilities: ``temperature`` (0 is greedy), nucleus ``top_p``, ``top_k`` (0 keeps all).

    The target's p and the drafter's q must both go through the same one; otherwise the output is not the target's.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0

    def __post_init__(self):
        if not self.temperature >= 0 or self.temperature == float("inf"):
            raise ValueError(f"temperature is {self.temperature}; give 0 (greedy) or a finite positive number")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; give a number above 0 and at most 1 (1 keeps every token)")
        if not isinstance(self.top_k, Integral) or self.top_k < 0:
            raise ValueError(f"top_k is {self.top_k}; give 0 (keep every token) or how many tokens to keep")

    def probs(self, logits):
        """Probabilities (..., vocab) in float32 of ``logits`` (..., vocab) of any float type."""
        logits = logits.astype(mx.float32)
        if self.temperature == 0:
            return one_hot(mx.argmax(logits, axis=-1), logits.shape[-1])
        logits = logits / self.temperature
        if self.top_k:
            logits = keep_top_k(logits, self.top_k)
        if self.top_p < 1:
            logits = keep_top_p(logits, self.top_p)
        return mx.softmax(logits, axis=-1)

    def choose(self, logits, key):
        """Tokens (...) drawn from ``logits`` (..., vocab), and the ``probs`` (..., vocab) that they were drawn from.

        At temperature 0 the tokens do not wait for the distributions, which may never be asked for.
        """
        if self.temperature == 0:
            tokens = mx.argmax(logits, axis=-1)
            return tokens, one_hot(tokens, logits.shape[-1])
        probs = self.probs(logits)
        return sample(probs, key), probs

    def gist(self, logits):
        """All that the accept rule needs of the target's ``logits`` (..., vocab): p, or at temperature 0 less.

        There p is one-hot and its token (...) says it all: no distribution is ever made.
        """
        return mx.argmax(logits, axis=-1) if self.temperature == 0 else self.probs(logits)

    def whole(self, gist, vocab_size):
        """p (..., vocab_size) in float32, of which ``gist`` is the gist."""
        return one_hot(gist, vocab_size) if self.temperature == 0 else gist

    def judge(self, gist, q, tokens, key):
        """The accept rule, see ``judge``, on the target's ``gist`` and q and ``tokens`` of this Sampling's drafts."""
        return compare(gist, tokens) if self.temperature == 0 else judge(gist, q, tokens, key)


def one_hot(tokens, vocab_size):
    """Distributions (..., vocab_size) in float32 with all their mass on ``tokens`` (...)."""
    return (tokens[..., None] == mx.arange(vocab_size)).astype(mx.float32)


def keep_top_k(logits, k):
    """Logits (..., vocab) with all but the ``k`` largest set to minus infinity; ties at the edge are all kept."""
    if k >= logits.shape[-1]:
        return logits
    edge = mx.min(mx.topk(logits, k, axis=-1), axis=-1, keepdims=True)
    return mx.where(logits < edge, -mx.inf, logits)


def keep_top_p(logits, top_p):
    """Logits (..., vocab) with all but the nucleus set to minus infinity.

    The nucleus is the smallest set of most probable tokens whose probability reaches ``top_p``; ties at its edge are
    all kept, and the most probable token always is.
    """
    probs = mx.softmax(logits, axis=-1)
    descending = -mx.sort(-probs, axis=-1)
    before = mx.cumsum(descending, axis=-1) - descending  # mass of the tokens ahead of each
    edge = mx.min(mx.where(before < top_p, descending, mx.inf), axis=-1, keepdims=True)
    return mx.where(probs < edge, -mx.inf, logits)


def sample(probs, key):
    """Draw tokens (...) from distributions (..., vocab); a distribution with one token of mass 1 always gives it.

    With R keys (R, 2) each row of ``probs`` (R, ..., vocab) is drawn with its own, as it would be by itself.
    """
    if key.ndim > 1:
        return mx.vmap(sample)(probs, key)
    # MLX draws from one distribution in a row of its own, (1, vocab), in another way, which mx.vmap does not know.
    logits = mx.log(probs[0] if probs.shape[:-1] == (1,) else probs)
    return mx.random.categorical(logits, key=key).reshape(probs.shape[:-1])


def split(key, n):
    """``n`` keys (n, 2) from ``key``; (R, n, 2) from R keys (R, 2), from each what it would give by itself."""
    return mx.random.split(key, n) if key.ndim == 1 else mx.vmap(partial(mx.random.split, num=n))(key)


def acceptance(p, q):
    """The probability min(1, p/q) of accepting a drafted token, elementwise.

    A token that the drafter cannot draw (q = 0) is never asked about; its value is 1.
    """
    return mx.where(q > 0, mx.minimum(1.0, p / mx.where(q > 0, q, 1.0)), 1.0)


def residual(p, q):
    """What to draw from after a rejection: norm(max(0, p - q)), over the last axis.

    Rejected tokens are those of which q has too much; the residual holds what q has too little of, so that accepted and
    corrected tokens together have the distribution p. Where q covers p wholly no rejection can happen; p is returned.
    """
    lacking = mx.maximum(p - q, 0.0)
    mass = mx.sum(lacking, axis=-1, keepdims=True)
    return mx.where(mass > 0, lacking / mx.where(mass > 0, mass, 1.0), p)


def accept(p, q, tokens, key):
    """How many drafted tokens to keep, and the target's own token that follows them, as two ints; see ``judge``."""
    accepted, own = judge(p, q, tokens, key)
    mx.eval(accepted, own)
    return accepted.item(), own.item()


def judge(p, q, tokens, key):
    """The accept rule: how many drafted tokens to keep, (), and the target's own token after them, (1,), as arrays.

    ``p`` (n + 1, vocab): the target's distributions at the n drafted positions and at the one after them; ``q``
    (n, vocab): the distributions that ``tokens`` (n,) were really drawn from. Tokens are accepted left to right, each
    with probability min(1, p/q), until the first rejection. The target's token is the *correction*, drawn from the
    residual, after a rejection, and the *bonus*, drawn from p, when all were accepted. At temperature 0 p and q are
    one-hot, and this same rule compares tokens (as ``compare`` does, in a tenth of the time). Nothing is waited for: it
    can be described before p is computed.
    """
    n = tokens.shape[0]
    coin_key, token_key = mx.random.split(key)
    if n == 0:
        return mx.array(0), sample(p, token_key)
    drafted = tokens[:, None]
    chance = acceptance(mx.take_along_axis(p[:n], drafted, -1), mx.take_along_axis(q, drafted, -1))[:, 0]
    accepted = mx.sum(mx.cumprod(mx.random.uniform(shape=(n,), key=coin_key) < chance))
    correction = residual(p[accepted], q[mx.minimum(accepted, n - 1)])
    return accepted, sample(mx.where(accepted < n, correction, p[n]), token_key)[None]


def compare(own, tokens):
    """What ``judge`` comes to where p is one-hot: keep the ``tokens`` (n,) that are the target's ``own`` (n + 1,)."""
    if tokens.shape[0] == 0:
        return mx.array(0), own
    accepted = mx.sum(mx.cumprod(own[:-1] == tokens))
    return accepted, own[accepted[None]]
