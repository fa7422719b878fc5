"""The confidence head: the drafter's own estimate that a position will be accepted (paper, section 3.2.1)."""

import mlx.core as mx
import mlx.nn as nn


class ConfidenceHead(nn.Module):
    """c_k = sigmoid(w [h_k; W1[x_{k-1}]]), eq. 7; trained towards the overlap sum(min(p, q)) at the position.

    It looks at the slot and at the token before, never at the token drawn at the slot itself: a schedule that reads
    c_k before deciding on position k learns nothing about the coin it is to bet on.
    """

    def __init__(self, hidden_size, rank):
        super().__init__()
        self.proj = nn.Linear(hidden_size + rank, 1)

    def __call__(self, hidden, embedded):
        """The logit (...) of c for ``hidden`` (..., d) and the previous token's ``embedded`` W1 row (..., r)."""
        return self.proj(mx.concatenate([hidden, embedded], axis=-1))[..., 0]
