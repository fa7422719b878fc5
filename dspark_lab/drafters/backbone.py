"""The block-diffusion backbone that DFlash and DSpark share (paper, section 2).

A block is the anchor followed by mask tokens. The drafter's few layers turn it, in one pass, into one state a slot.
Two things make that work. The layers see what the target computed: features fused from its tapped states (eq. 2) stand
in every layer's keys and values, in front of the block's own (eq. 3). And within the block attention runs both ways, so
that each slot knows which slot it is; but no slot knows which token another slot's distribution will yield, which is
why later tokens fail more often (suffix decay) and what the Markov head repairs.

Module and tensor names are those of DeepSpec's and z-lab's published checkpoints.
"""

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.activations import swiglu
from mlx_lm.models.cache import KVCache
from mlx_lm.models.rope_utils import initialize_rope

from dspark_lab.rollback import SlidingCache

DEEPSPEC_ARCHITECTURES = ("Qwen3DSparkModel", "Gemma4DSparkModel")  # DSpark and its DFlash baseline alike


class Attention(nn.Module):
    """Attention of a block over the context and itself. Gemma's: values are unprojected keys, normalised, scale 1."""

    def __init__(self, config, input_size=None):
        super().__init__()
        size, self.head_dim = input_size or config.hidden_size, config.head_dim
        self.num_heads, self.num_kv_heads = config.num_heads, config.num_kv_heads
        self.q_proj = nn.Linear(size, config.num_heads * config.head_dim, bias=False)
        self.k_proj = nn.Linear(size, config.num_kv_heads * config.head_dim, bias=False)
        if not config.gemma:
            self.v_proj = nn.Linear(size, config.num_kv_heads * config.head_dim, bias=False)
        self.o_proj = nn.Linear(config.num_heads * config.head_dim, config.hidden_size, bias=False)
        for name in ("q_norm", "k_norm"):
            self[name] = nn.Identity() if config.speculator else nn.RMSNorm(config.head_dim, eps=config.rms_norm_eps)
        self.scale = 1.0 if config.gemma else config.head_dim**-0.5
        self.rope = initialize_rope(
            config.head_dim,
            base=config.rope_theta,
            traditional=False,
            scaling_config=config.rope_parameters,
            max_position_embeddings=config.max_position_embeddings,
        )

    def keys_values(self, x, offset):
        """Keys and values (B, num_kv_heads, n, head_dim) of ``x`` (B, n, size), whose first row is at ``offset``."""
        B, n, _ = x.shape
        keys = self.k_proj(x).reshape(B, n, self.num_kv_heads, -1)
        if "v_proj" in self:
            values = self.v_proj(x).reshape(B, n, self.num_kv_heads, -1)
        else:
            values = mx.fast.rms_norm(keys, None, self.k_norm.eps)
        return self.rope(self.k_norm(keys).transpose(0, 2, 1, 3), offset=offset), values.transpose(0, 2, 1, 3)

    def __call__(self, x, cache, mask=None):
        """Attend from ``x`` (B, n, size) to what ``cache`` holds and to ``x`` itself; without a mask, to all of it."""
        B, n, _ = x.shape
        offset = cache.offset
        queries = self.q_norm(self.q_proj(x).reshape(B, n, self.num_heads, -1)).transpose(0, 2, 1, 3)
        queries = self.rope(queries, offset=offset)
        keys, values = cache.update_and_fetch(*self.keys_values(x, offset))
        output = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=self.scale, mask=mask)
        return self.o_proj(output.transpose(0, 2, 1, 3).reshape(B, n, -1))


class MLP(nn.Module):
    """The gated feed-forward part, with SiLU (Qwen) or tanh-GELU (Gemma)."""

    def __init__(self, config):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.activate = (lambda gate, up: nn.gelu_approx(gate) * up) if config.gemma else swiglu

    def __call__(self, x):
        return self.down_proj(self.activate(self.gate_proj(x), self.up_proj(x)))


class QwenLayer(nn.Module):
    """One draft layer in Qwen3's shape."""

    def __init__(self, config, input_size=None):
        super().__init__()
        self.self_attn = Attention(config, input_size)
        self.mlp = MLP(config)
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def __call__(self, x, cache, mask=None):
        return self.finish(x, self.self_attn(self.input_layernorm(x), cache, mask))

    def finish(self, x, attended):
        """The layer's output (B, n, d) once ``x`` (B, n, d) has attended: the residuals and the feed-forward part."""
        h = x + attended
        return h + self.mlp(self.post_attention_layernorm(h))


class GemmaLayer(QwenLayer):
    """One draft layer in Gemma-4's shape: norms after each part too, and a scalar on the whole."""

    def __init__(self, config, input_size=None):
        super().__init__(config, input_size)
        self.pre_feedforward_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_feedforward_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.layer_scalar = mx.ones((1,))

    def finish(self, x, attended):
        h = x + self.post_attention_layernorm(attended)
        h = h + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(h)))
        return h * self.layer_scalar


class BlockDrafter(nn.Module):
    """Context features, draft layers, and the embedding and head, the checkpoint's own or else the target's."""

    first_slot = 0  # the slot from which the first draft is read

    def __init__(self, config, target, own_embedding=False, own_head=False):
        super().__init__()
        self.config = config
        self.taps = config.taps
        self.fc = nn.Linear(len(config.taps) * config.hidden_size, config.hidden_size, bias=False)
        self.hidden_norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.layers = [(GemmaLayer if config.gemma else QwenLayer)(config) for _ in range(config.num_layers)]
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self._target = target
        if own_embedding:
            self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        if own_head:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def new_cache(self):
        """One key/value cache a draft layer. It holds the context that the layer sees, never a block."""
        most = None if self.config.draft_window is None else self.config.draft_window + 1
        reaches = [min((reach for reach in (window, most) if reach), default=None) for window in self.config.windows]
        return [KVCache() if reach is None else SlidingCache(reach) for reach in reaches]

    def commit(self, tokens, hidden, cache):
        """Append the context features of ``hidden`` (1, n, taps * d) to every layer's keys and values."""
        features = self.context_features(hidden)
        mx.async_eval(
            [
                context.update_and_fetch(*layer.self_attn.keys_values(features, context.offset))
                for layer, context in zip(self.layers, cache)
            ]
        )

    def trim(self, cache, n):
        """Forget the context features of all tokens but the first ``n``."""
        for context in cache:
            context.trim(context.offset - n)
        return n

    def context_features(self, hidden):
        """Fuse the tapped states (B, n, taps * d) into features (B, n, d): RMSNorm(W_c [H(l1); ...; H(lm)]), eq. 2."""
        return self.hidden_norm(self.fc(hidden))

    def block_states(self, anchors, cache, mask=None):
        """The states (B, block_size, d) of blocks that start at ``anchors`` (B,): one pass, every slot at once."""
        masks = mx.full((anchors.shape[0], self.config.block_size - 1), self.config.mask_token_id)
        h = self.embed(mx.concatenate([anchors[:, None], masks], axis=1))
        for layer, context, window, causal in zip(self.layers, cache, self.config.windows, self.config.causal):
            h = layer(h, context, block_mask(h.shape[1], context, window, causal) if mask is None else mask)
        return self.norm(h)

    def draft_states(self, anchor, cache):
        """``block_states`` (1, block_size, d) of one anchor (an int), with ``cache`` left as it was."""
        states = self.block_states(mx.array([anchor]), cache)
        for context in cache:  # the block's own keys and values stood behind the context's; take them back
            context.trim(self.config.block_size)
        return states

    def draft_states_of_rows(self, anchors, cache):
        """The states (R, draft_length, d) of blocks after ``anchors`` (R,), one a row of ``cache``, RowsKVCaches."""
        states = self.block_states(anchors, cache, cache[0].block_mask(self.config.block_size))
        for context in cache:
            context.trim(self.config.block_size)
        return states[:, self.first_slot :]

    def embed(self, ids):
        """Token embeddings (..., d); Gemma scales its own by sqrt(d), and the target does what it does to its own."""
        if "embed_tokens" not in self:
            return self._target.embed(ids) * self.config.embedding_scale
        scale = self.config.hidden_size**0.5 if self.config.gemma else 1.0
        return self.embed_tokens(ids) * scale

    def base_logits(self, states):
        """Logits (..., vocab) of ``states`` (..., d) before any Markov correction, soft-capped where the model is."""
        logits = self.lm_head(states) if "lm_head" in self else self._target.head(states)
        return softcapped(logits, self.config.softcap)


def softcapped(logits, cap):
    """``logits`` bent into (-cap, cap); as they are without a cap."""
    return mx.tanh(logits / cap) * cap if cap else logits


def block_mask(n, context, window, causal):
    """Which keys the ``n`` slots of a block see: a boolean array (n, context seen + n), or None for all of them.

    ``context``: the layer's cache before the block. With a ``window`` each slot sees the context less than that many
    positions before its own; ``causal``: of the block it sees the slots up to itself.
    """
    if window is None and not causal:
        return None
    seen = context.offset if isinstance(context, KVCache) else min(context.offset, context.window - 1)
    slots, keys = seen + mx.arange(n)[:, None], mx.arange(seen + n)
    visible = (keys <= slots) if causal else mx.full((n, seen + n), True)
    return visible if window is None else visible & ((slots - keys < window) | (keys >= seen))
