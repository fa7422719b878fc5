"""EAGLE-3: an autoregressive drafter of one layer (the paper's other baseline; DeepSpec's convention).

Its input at position i is the embedding of token i + 1 beside a feature of position i. For committed positions the
feature is fused from the target's tapped states; while drafting it is the layer's own output, fed back. It draws token
after token, each knowing the last: no suffix decay from independence, but a pass of its own for every token.
"""

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import KVCache

from dspark_lab.drafters.backbone import MLP, Attention
from dspark_lab.drafters.protocol import Draft, empty_draft


class Eagle3Layer(nn.Module):
    """One layer over [norm(embedding); norm(feature)], 2d wide at its attention's input, d elsewhere."""

    def __init__(self, config):
        super().__init__()
        self.self_attn = Attention(config, input_size=2 * config.hidden_size)
        self.mlp = MLP(config)
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.hidden_norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def __call__(self, embedded, features, cache, mask=None):
        x = mx.concatenate([self.input_layernorm(embedded), self.hidden_norm(features)], axis=-1)
        h = features + self.self_attn(x, cache, mask)
        return h + self.mlp(self.post_attention_layernorm(h))


class Eagle3Cache:
    """The layer's keys and values of the committed pairs, and the last feature, whose token is not known yet."""

    def __init__(self):
        self.kv = KVCache()
        self.waiting = None  # (1, 1, d)


class Eagle3(nn.Module):
    """An EAGLE-3 drafter; ``target`` lends its embedding and head where the checkpoint has none."""

    mode = "eagle3"

    def __init__(self, config, target, own_embedding=False, own_head=False):
        super().__init__()
        self.config, self.taps, self.draft_length = config, config.taps, config.block_size
        self.fc = nn.Linear(len(config.taps) * config.hidden_size, config.hidden_size, bias=False)
        self.layers = [Eagle3Layer(config)]
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self._target = target
        if own_embedding:
            self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        if own_head:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    @staticmethod
    def reads(config):
        """Whether a checkpoint with this DrafterConfig is one of these."""
        return config.architecture == "Qwen3Eagle3Model"

    def new_cache(self):
        """Empty."""
        return Eagle3Cache()

    def commit(self, tokens, hidden, cache):
        """Pair each feature with the token after it, and keep the pairs' keys and values; the last feature waits."""
        features = self.fc(hidden)
        if cache.waiting is not None:
            features, followers = mx.concatenate([cache.waiting, features], axis=1), tokens
        else:
            followers = tokens[1:]
        cache.waiting = features[:, -1:]
        if followers:
            layer = self.layers[0]
            embedded = layer.input_layernorm(self.embed(mx.array([followers])))
            x = mx.concatenate([embedded, layer.hidden_norm(features[:, :-1])], axis=-1)
            cache.kv.update_and_fetch(*layer.self_attn.keys_values(x, cache.kv.offset))

    def propose(self, anchor, length, cache, sampling, key):
        """``length`` passes of the layer, a token each; none before anything was committed (there is no feature)."""
        if cache.waiting is None:
            return empty_draft(self.config.vocab_size)
        token, feature, tokens, probs = mx.array([[anchor]]), cache.waiting, [], []
        for k in mx.random.split(key, length):
            feature = self.layers[0](self.embed(token), feature, cache.kv)
            probs.append(sampling.probs(self.base_logits(self.norm(feature))[0, 0]))
            token = sampling.draw(probs[-1], k).reshape(1, 1)
            mx.async_eval(token)
            tokens.append(token[0, 0])
        cache.kv.trim(length)  # drafted keys and values came from the layer's own features: take them back
        return Draft(mx.stack(tokens), mx.stack(probs))

    def embed(self, ids):
        """Token embeddings (..., d)."""
        return self.embed_tokens(ids) if "embed_tokens" in self else self._target.embed(ids)

    def base_logits(self, states):
        """Logits (..., vocab) of normalised states (..., d)."""
        return self.lm_head(states) if "lm_head" in self else self._target.head(states)
