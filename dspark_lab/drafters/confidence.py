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

    def __call__(self, hidden, embedded, weights=()):
        """The logits (..., γ) of c for ``hidden`` (..., γ, d) and the W1 rows ``embedded`` (..., γ, r).

        ``weights``, if any, stand in for the head's own: d + r numbers, and a bias for each position of a whole block.
        """
        features = mx.concatenate([hidden, embedded], axis=-1)
        if not weights:
            return self.proj(features)[..., 0]
        weights, (positions, width) = mx.array(weights), features.shape[-2:]
        return (features @ weights[:width, None])[..., 0] + weights[width : width + positions]
