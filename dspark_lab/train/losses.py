"""The drafters' losses (paper, section 3.3), each a few lines, on draft and target logits at the same positions."""

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn


@dataclass(frozen=True)
class LossWeights:
    """How much of each loss: cross-entropy on the target's tokens, L1 between q and p, confidence.

    ``loss_decay``: λ of the position weights exp(-(k - 1) / λ): early positions matter more, since a later one counts
    only if all before it were accepted.
    """

    cross_entropy: float
    l1: float
    confidence: float
    loss_decay: float = 4.0


DSPARK = LossWeights(cross_entropy=0.1, l1=0.9, confidence=1.0)
CONFIDENCE = LossWeights(cross_entropy=0.1, l1=0.9, confidence=6.0)  # the last steps of the lab pair's DSpark
DFLASH = LossWeights(cross_entropy=1.0, l1=0.0, confidence=0.0)
DFLASH16 = LossWeights(cross_entropy=1.0, l1=0.0, confidence=0.0, loss_decay=7.0)
NO_MARKOV = LossWeights(cross_entropy=0.1, l1=0.9, confidence=0.0)  # the ablation: DSpark's losses, no Markov head


def position_weights(length, loss_decay):
    """w_k = exp(-(k - 1) / λ), (length,)."""
    return mx.exp(-mx.arange(length) / loss_decay)


def l1_distance(q, p):
    """|q - p|_1 over the vocabulary, (...): twice the total variation, and 2 - 2 sum(min(p, q))."""
    return mx.sum(mx.abs(q - p), axis=-1)


def block_loss(weights, draft_logits, confidence_logits, p, tokens, valid):
    """The loss of drafted blocks.

    ``draft_logits`` and ``p``, the target's probabilities, are (N, γ, vocab) float32, ``confidence_logits`` (N, γ) or
    None, ``tokens`` (N, γ) what the target said, ``valid`` (N, γ) 1 where the position is inside the response. The
    confidence is trained towards the overlap 1 - |q - p|_1 / 2, which it must not influence (eq. 8).
    Returns the loss and the overlaps (N, γ).
    """
    q = mx.softmax(draft_logits, axis=-1)
    l1 = l1_distance(q, p)
    overlap = mx.stop_gradient(1 - l1 / 2)
    loss = weights.l1 * l1
    if weights.cross_entropy:
        loss = loss + weights.cross_entropy * nn.losses.cross_entropy(draft_logits, tokens)
    if confidence_logits is not None:
        loss = loss + weights.confidence * nn.losses.binary_cross_entropy(confidence_logits, overlap, reduction="none")
    by_position = position_weights(tokens.shape[1], weights.loss_decay) * valid
    return mx.sum(loss * by_position) / mx.maximum(mx.sum(by_position), 1e-6), overlap
