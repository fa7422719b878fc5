"""DSpark: the block-diffusion backbone, the Markov head and the confidence head (paper, section 3).

It predicts from the anchor's own slot: γ inputs, the anchor and γ - 1 masks, give γ drafts.
"""

import mlx.core as mx

from dspark_lab.drafters.backbone import DEEPSPEC_ARCHITECTURES, BlockDrafter
from dspark_lab.drafters.confidence import ConfidenceHead
from dspark_lab.drafters.markov import HEADS
from dspark_lab.drafters.protocol import Draft
from dspark_lab.sampling import split


class DSpark(BlockDrafter):
    """A DSpark drafter; ``target`` lends its embedding and head where the checkpoint has none."""

    mode = "dspark"

    def __init__(self, config, target, **own):
        super().__init__(config, target, **own)
        self.draft_length = config.block_size
        self.markov_head = HEADS[config.markov_head_type](config.vocab_size, config.hidden_size, config.markov_rank)
        if config.confidence_head:
            self.confidence_head = ConfidenceHead(config.hidden_size, config.markov_rank)

    @staticmethod
    def reads(config):
        """Whether a checkpoint with this DrafterConfig is one of these."""
        return config.architecture in DEEPSPEC_ARCHITECTURES and config.markov_rank > 0

    def propose(self, anchor, length, cache, sampling, key):
        """One pass for all slots, then a token at a time: correct the slot's logits, draw, go on."""
        states = self.draft_states(anchor, cache)[0, :length]  # (length, d)
        return Draft(*self.read(anchor, states, self.base_logits(states), sampling, key))

    def read(self, anchor, states, base_logits, sampling, key):
        """The fields of a Draft, from the slots' ``states`` (γ, d) and ``base_logits`` (γ, vocab).

        R rows may be read at once: anchors (R,), states (R, γ, d), base logits (R, γ, vocab), a key a row (R, 2).
        """
        tokens, probs = self.draw(anchor, states, base_logits, sampling, key)
        return tokens, probs, self.confidence(anchor, tokens, states, sampling)

    def draw(self, anchor, states, base_logits, sampling, key):
        """Draw x_1, x_2, ...: q_k is softmax(base_logits_k + B(x_{k-1}, .)), and x_k is drawn from that q_k."""
        previous, state, tokens, probs = mx.array(anchor), None, [], []
        slots = (mx.moveaxis(x, -2, 0) for x in (states, base_logits, split(key, states.shape[-2])))
        for hidden, logits, k in zip(*slots):
            # A row of its own: MLX 0.32.4 fails on CUDA to multiply a lone vector of these.
            bias, state = self.markov_head.step(previous[None], hidden[None], state)
            previous, q = sampling.choose(logits + bias[0], k)
            if mx.default_device() == mx.cpu:  # it draws while Python describes the next step; a GPU is soon done
                mx.async_eval(previous)
            tokens.append(previous)
            probs.append(q)
        return mx.stack(tokens, axis=-1), mx.stack(probs, axis=-2)

    def confidence(self, anchor, tokens, states, sampling):
        """c_1 .. c_γ of drafted ``tokens`` (..., γ) at ``states`` (..., γ, d), or None without a confidence head.

        Greedy drafts may have weights and a calibration of their own: at temperature 0 a draft is right or wrong, and
        the head was trained towards an overlap of soft distributions.
        """
        if "confidence_head" not in self:
            return None
        previous = mx.concatenate([mx.array(anchor)[..., None], tokens[..., :-1]], axis=-1)
        greedy = sampling.temperature == 0
        own = self.config.confidence_weights_greedy if greedy else ()
        logits = self.confidence_head(states, self.markov_head.markov_w1(previous), own)
        if temperatures := self.config.temperatures(greedy):
            logits = logits / mx.array(temperatures[: logits.shape[-1]])
        return mx.sigmoid(logits)
