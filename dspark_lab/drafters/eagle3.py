"""EAGLE-3: an autoregressive drafter of one layer (the paper's other baseline).

Its input at position i is the embedding of token i + 1 beside a feature of position i. For committed positions the
feature is fused from the target's tapped states; while drafting it is the layer's own output, fed back. It draws token
after token, each knowing the last: no suffix decay from independence, but a pass of its own for every token.

Checkpoints come in two formats. DeepSpec's have the shape of the target's own layers (Qwen3's or Gemma-4's).
Speculators' have Llama's, their own embedding, unscaled whatever the target does, and often a head over the commonest
tokens alone: ``d2t`` holds, for each of those, how far its id lies below the target's.
"""

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import KVCache

from dspark_lab.drafters.backbone import GemmaLayer, QwenLayer, softcapped
from dspark_lab.drafters.protocol import Draft, empty_draft


class OverBoth:
    """What makes a layer EAGLE-3's: it attends over [norm(embedding); norm(feature)], 2d wide; all else is d wide."""

    def __init__(self, config):
        super().__init__(config, input_size=2 * config.hidden_size)
        self.hidden_norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.norm_before_residual = config.norm_before_residual

    def inputs(self, embedded, features):
        """The attention's input (B, n, 2d)."""
        return mx.concatenate([self.input_layernorm(embedded), self.hidden_norm(features)], axis=-1)

    def __call__(self, embedded, features, cache, mask=None):
        attended = self.self_attn(self.inputs(embedded, features), cache, mask)
        return self.finish(self.hidden_norm(features) if self.norm_before_residual else features, attended)


class Eagle3Layer(OverBoth, QwenLayer):
    """EAGLE-3's layer in Qwen3's shape."""


class Eagle3GemmaLayer(OverBoth, GemmaLayer):
    """EAGLE-3's layer in Gemma-4's shape."""


class Eagle3Cache:
    """The layer's keys and values of the committed pairs, and the last feature, whose token is not known yet."""

    def __init__(self):
        self.kv = KVCache()
        self.waiting = None  # (1, 1, d)

    @property
    def state(self):
        """All that it holds, in the form of mlx-lm's caches."""
        return self.kv.state, self.waiting

    @state.setter
    def state(self, state):
        self.kv.state, self.waiting = state


class Eagle3(nn.Module):
    """An EAGLE-3 drafter; ``target`` lends its embedding and head where the checkpoint has none."""

    mode = "eagle3"

    def __init__(self, config, target, own_embedding=False, own_head=False):
        super().__init__()
        self.config, self.taps, self.draft_length = config, config.taps, config.block_size
        tapped = len(config.taps) * config.target_hidden_size
        self.fc = nn.Linear(tapped, config.hidden_size, bias=False)
        self.layers = [(Eagle3GemmaLayer if config.gemma else Eagle3Layer)(config)]
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self._target = target
        if config.norm_before_fc:
            self.input_norm = nn.RMSNorm(tapped, eps=config.rms_norm_eps)
        if own_embedding or config.speculator:
            self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        if own_head or config.speculator:
            self.lm_head = nn.Linear(config.hidden_size, config.draft_vocab_size, bias=False)
        if config.draft_vocab_size < config.vocab_size:
            self.d2t = mx.zeros((config.draft_vocab_size,), mx.int32)

    @staticmethod
    def reads(config):
        """Whether a checkpoint with this DrafterConfig is one of these."""
        return config.architecture in ("Qwen3Eagle3Model", "Gemma4Eagle3Model", "Eagle3Speculator")

    def new_cache(self):
        """Empty."""
        return Eagle3Cache()

    def commit(self, tokens, hidden, cache):
        """Pair each feature with the token after it, and keep the pairs' keys and values; the last feature waits."""
        features = self.fc(self.input_norm(hidden) if "input_norm" in self else hidden)
        if cache.waiting is not None:
            features, followers = mx.concatenate([cache.waiting, features], axis=1), tokens
        else:
            followers = tokens[1:]
        cache.waiting = features[:, -1:]
        if followers:
            layer = self.layers[0]
            x = layer.inputs(self.embed(mx.array([followers])), features[:, :-1])
            cache.kv.update_and_fetch(*layer.self_attn.keys_values(x, cache.kv.offset))

    def trim(self, cache, n):
        """Keep n - 1 pairs: the feature that would wait is gone, so token n has to be committed once more."""
        pairs = max(n - 1, 0)
        cache.kv.trim(cache.kv.offset - pairs)
        cache.waiting = None
        return pairs

    def propose(self, anchor, length, cache, sampling, key):
        """``length`` passes of the layer, a token each; none before anything was committed (there is no feature)."""
        if cache.waiting is None:
            return empty_draft(self.config.vocab_size)
        token, feature, tokens, probs = mx.array([[anchor]]), cache.waiting, [], []
        for k in mx.random.split(key, length):
            feature = self.layers[0](self.embed(token), feature, cache.kv)
            token, q = sampling.choose(self.base_logits(self.norm(feature))[0, 0], k)
            mx.async_eval(token)
            tokens.append(token)
            probs.append(q)
            token = token.reshape(1, 1)
        cache.kv.trim(length)  # drafted keys and values came from the layer's own features: take them back
        return Draft(mx.stack(tokens), mx.stack(probs))

    def embed(self, ids):
        """Token embeddings (..., d); a Gemma head scales its own by sqrt(d)."""
        if "embed_tokens" not in self:
            return self._target.embed(ids)
        return self.embed_tokens(ids) * (self.config.hidden_size**0.5 if self.config.gemma else 1.0)

    def base_logits(self, states):
        """Logits (..., vocab) of normalised states (..., d); minus infinity for tokens that the head does not know."""
        logits = self.lm_head(states) if "lm_head" in self else self._target.head(states)
        logits = softcapped(logits, self.config.softcap)
        if "d2t" not in self:
            return logits
        known = mx.arange(self.d2t.size) + self.d2t
        return mx.full((*logits.shape[:-1], self.config.vocab_size), -mx.inf).at[..., known].maximum(logits)
