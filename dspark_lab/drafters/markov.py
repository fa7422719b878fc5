"""The Markov head: a transition bias that lets slot k know the token drawn at slot k - 1 (paper, section 3.1).

The backbone's slots are drafted independently; each is right about "of course" and "no problem", and together they say
"of problem". The head adds to slot k's logits a bias that depends on the token just drawn, through a low-rank table of
transitions. Drawing becomes sequential, but all that is sequential is this small correction.

Every head is asked ``step(previous, hidden, state) -> (bias, state)``: ``previous`` (...) the token before,
``hidden`` (..., d) the slot's state, ``state`` what the head carries along the block (None at its start).
"""

import mlx.core as mx
import mlx.nn as nn


class VanillaHead(nn.Module):
    """B(x, .) = W1[x] W2 with W1 (vocab, r) and W2 (r, vocab): one token back, nothing else (eq. 5)."""

    def __init__(self, vocab_size, hidden_size, rank):
        super().__init__()
        self.markov_w1 = nn.Embedding(vocab_size, rank)
        self.markov_w2 = nn.Linear(rank, vocab_size, bias=False)

    def embed(self, previous):
        """The rows W1[x] (..., r) of ``previous`` (...); a quantized table is looked up by lists of ids alone."""
        return self.markov_w1(previous.reshape(-1)).reshape(*previous.shape, -1)

    def step(self, previous, hidden, state):
        """The bias W1[x] W2, (..., vocab); no state."""
        return self.markov_w2(self.embed(previous)), None


class GatedHead(VanillaHead):
    """The transition, gated by what the slot sees: (sigmoid(G [h; W1[x]]) * W1[x]) W2 (DeepSpec's code)."""

    def __init__(self, vocab_size, hidden_size, rank):
        super().__init__(vocab_size, hidden_size, rank)
        self.gate_proj = nn.Linear(hidden_size + rank, rank)

    def step(self, previous, hidden, state):
        """The gated bias, (..., vocab); no state."""
        embedded = self.embed(previous)
        gate = mx.sigmoid(self.gate_proj(mx.concatenate([hidden, embedded], axis=-1)))
        return self.markov_w2(gate * embedded), None


class RNNHead(VanillaHead):
    """A recurrent state along the block (eq. 6): it can remember more than one token back.

    z = [s; W1[x]; h]; gate g, candidate c and output o are linear in z; s' = g s + (1 - g) tanh(c); bias = tanh(o) W2.
    """

    def __init__(self, vocab_size, hidden_size, rank):
        super().__init__(vocab_size, hidden_size, rank)
        self.joint_proj = nn.Linear(2 * rank + hidden_size, 3 * rank)

    def step(self, previous, hidden, state):
        """The bias (..., vocab) and the next state (..., r); a block starts from zeros."""
        embedded = self.embed(previous)
        state = mx.zeros_like(embedded) if state is None else state
        gate, candidate, output = mx.split(
            self.joint_proj(mx.concatenate([state, embedded, hidden], axis=-1)), 3, axis=-1
        )
        gate = mx.sigmoid(gate)
        state = gate * state + (1 - gate) * mx.tanh(candidate)
        return self.markov_w2(mx.tanh(output)), state


HEADS = {"vanilla": VanillaHead, "gated": GatedHead, "rnn": RNNHead}
