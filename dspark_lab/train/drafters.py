"""Drafters in the making: their configs, their first weights, and training on what the target itself generated.

A batch is a set of texts and, in each, some anchors drawn from the response. One pass of the frozen target over the
texts gives every drafter its context (the tapped states) and its teacher (p at each position). Each anchor becomes a
block; blocks of one text share that text's context, and each sees only what stands before its own anchor.
"""

import mlx.core as mx

from dspark_lab.drafters import Eagle3
from dspark_lab.drafters.config import DrafterConfig
from dspark_lab.drafters.load import kind_of
from dspark_lab.train.losses import block_loss

STEP_DECAY = 0.8  # EAGLE-3: the weight of each further step of its own rollout, as in DeepSpec's config


def drafter_config(name, target_config, recipe, mask_id):
    """The config.json of the drafter ``name`` in its published format: the target's, and what the drafter adds."""
    config = {
        **target_config,
        "architectures": ["Qwen3DSparkModel"], "num_target_layers": recipe.layers, "num_hidden_layers": 2,
        "intermediate_size": recipe.draft_intermediate_size, "tie_word_embeddings": False, "block_size": 7,
        "mask_token_id": mask_id, "target_layer_ids": list(recipe.taps), "num_anchors": recipe.anchors,
        "layer_types": ["full_attention"] * 2, "enable_confidence_head": False, "markov_rank": 0,
    }  # fmt: skip
    if name in ("dspark", "gated", "rnn"):
        head = "vanilla" if name == "dspark" else name
        config |= {"enable_confidence_head": True, "confidence_head_with_markov": True,
                   "markov_rank": recipe.markov_rank, "markov_head_type": head}  # fmt: skip
    elif name == "dflash16":
        taps, mask = config.pop("target_layer_ids"), config.pop("mask_token_id")
        config |= {"architectures": ["DFlashDraftModel"], "block_size": 16, "tie_word_embeddings": True,
                   "dflash_config": {"target_layer_ids": taps, "mask_token_id": mask}}  # fmt: skip
    elif name == "eagle3":
        del config["block_size"], config["mask_token_id"]
        config |= {"architectures": ["Qwen3Eagle3Model"], "num_hidden_layers": 1, "ttt_length": 7,
                   "layer_types": ["full_attention"]}  # fmt: skip
    return config


def new_drafter(config, target, seed):
    """A drafter of this config.json with fresh weights; embedding and head are the target's."""
    config = DrafterConfig.from_json(config)
    config.check(target)
    mx.random.seed(seed)  # mlx.nn draws initial weights from MLX's global state
    drafter = kind_of(config)(config, target)
    if "markov_head" in drafter:  # starts as no correction at all
        drafter.markov_head.markov_w2.weight = mx.zeros_like(drafter.markov_head.markov_w2.weight)
    mx.eval(drafter.parameters())
    return drafter


class BlockContext:
    """Stands in for a draft layer's cache in training: the texts' context keys and values, once for every block."""

    def __init__(self, attention, features, offsets, blocks_per_text):
        keys, values = attention.keys_values(features, 0)
        self.keys = mx.repeat(keys, blocks_per_text, axis=0)
        self.values = mx.repeat(values, blocks_per_text, axis=0)
        self.offset = offsets

    def update_and_fetch(self, keys, values):
        """The context's keys and values, and the block's behind them."""
        return mx.concatenate([self.keys, keys], axis=2), mx.concatenate([self.values, values], axis=2)


def teach(target, taps, tokens):
    """One pass of the frozen ``target`` over ``tokens`` (B, L): its logits (B, L, vocab) and tapped states."""
    logits, hidden = target.run(tokens, None, taps)
    return mx.stop_gradient(logits), mx.stop_gradient(hidden)


def block_states(drafter, hidden, tokens, anchors):
    """The states (B * A, block_size, d) of blocks at ``anchors`` (B, A), positions in ``tokens`` (B, L)."""
    B, A = anchors.shape
    offsets = anchors.reshape(-1)
    features = drafter.context_features(hidden.astype(drafter.fc.weight.dtype))
    contexts = [BlockContext(layer.self_attn, features, offsets, A) for layer in drafter.layers]
    before = mx.arange(tokens.shape[1])[None] < offsets[:, None]  # the context strictly before the anchor
    block = mx.ones((B * A, drafter.config.block_size), dtype=mx.bool_)
    mask = mx.concatenate([before, block], axis=1)[:, None, None]  # (B * A, 1, 1, L + block_size)
    anchor_tokens = mx.take_along_axis(tokens, anchors, axis=1).reshape(-1)
    return drafter.block_states(anchor_tokens, contexts, mask)


def block_drafter_loss(weights, drafter, logits, hidden, tokens, anchors, ends):
    """The loss of a DSpark or DFlash drafter on one batch, and the overlaps and validity (B * A, γ).

    ``anchors`` (B, A); ``ends`` (B,): the length of each text. Position k of a block at anchor t predicts token t + k.
    """
    slot = getattr(drafter, "first_slot", 0)
    states = block_states(drafter, hidden, tokens, anchors)[:, slot:]
    N, length, _ = states.shape
    positions = anchors[:, :, None] + mx.arange(length)  # of the tokens before each drafted one
    valid = (positions + 1 < ends[:, None, None]).reshape(N, length)
    positions = mx.minimum(positions, tokens.shape[1] - 2)
    flat = positions.reshape(tokens.shape[0], -1)
    previous = mx.take_along_axis(tokens, flat, axis=1).reshape(N, length)
    following = mx.take_along_axis(tokens, flat + 1, axis=1).reshape(N, length)
    p = mx.softmax(mx.take_along_axis(logits, flat[..., None], axis=1).astype(mx.float32), axis=-1)
    draft_logits, confidence = teacher_forced(drafter, states, previous)
    loss, overlap = block_loss(weights, draft_logits, confidence, p.reshape(N, length, -1), following, valid)
    return loss, overlap, valid


def teacher_forced(drafter, states, previous):
    """Draft logits (N, γ, vocab) and confidence logits (N, γ) or None, given the true ``previous`` tokens (N, γ)."""
    logits = drafter.base_logits(states).astype(mx.float32)
    if "markov_head" not in drafter:
        return logits, None
    biases, state = [], None
    for k in range(states.shape[1]):
        bias, state = drafter.markov_head.step(previous[:, k], states[:, k], state)
        biases.append(bias)
    embedded = drafter.markov_head.markov_w1(previous)
    confidence = drafter.confidence_head(states, embedded) if "confidence_head" in drafter else None
    return logits + mx.stack(biases, axis=1).astype(mx.float32), confidence


class RolloutContext:
    """Stands in for EAGLE-3's cache in training: the keys and values of every step of its own rollout so far."""

    def __init__(self):
        self.offset, self.keys, self.values = 0, [], []

    def update_and_fetch(self, keys, values):
        """All steps' keys and values side by side; the next step stands one position further on."""
        self.keys.append(keys)
        self.values.append(values)
        self.offset += 1
        return mx.concatenate(self.keys, axis=2), mx.concatenate(self.values, axis=2)


def eagle3_loss(drafter, logits, hidden, tokens, anchors, ends):
    """EAGLE-3's loss: cross-entropy to p at each of ``draft_length`` steps on its own features (test-time training).

    Row i of step j holds feature i (the target's at step 0, the layer's own later) and token i + 1 + j, and predicts
    token i + 2 + j. It sees the true features up to i and, of the later steps, its own row. All rows are computed, for
    each is a feature to later ones; the loss is taken where token i + 1 is one of the ``anchors`` (B, A).
    """
    L = tokens.shape[1]
    feature, context = drafter.fc(hidden.astype(drafter.fc.weight.dtype)), RolloutContext()
    causal, own, mask = mx.tri(L, dtype=mx.bool_), mx.eye(L, dtype=mx.bool_), None
    rows = mx.maximum(anchors - 1, 0)
    loss, weight, overlaps, valids = 0.0, 0.0, [], []
    for j in range(drafter.draft_length):
        mask = causal if mask is None else mx.concatenate([mask, own], axis=1)
        given = mx.minimum(mx.arange(L) + 1 + j, L - 1)  # the position of the token each row is given
        feature = drafter.layers[0](drafter.embed(tokens[:, given]), feature, context, mask)
        chosen = mx.take_along_axis(feature, rows[..., None], axis=1)
        draft_logits = drafter.base_logits(drafter.norm(chosen)).astype(mx.float32)  # (B, A, vocab)
        place = mx.minimum(rows + 1 + j, L - 1)
        p = mx.softmax(mx.take_along_axis(logits, place[..., None], axis=1).astype(mx.float32), axis=-1)
        valid = rows + 2 + j < ends[:, None]
        entropy = mx.logsumexp(draft_logits, axis=-1) - mx.sum(p * draft_logits, axis=-1)
        loss = loss + STEP_DECAY**j * mx.sum(entropy * valid)
        weight = weight + STEP_DECAY**j * mx.sum(valid)
        overlaps.append(mx.stop_gradient(mx.sum(mx.minimum(p, mx.softmax(draft_logits, axis=-1)), axis=-1)))
        valids.append(valid)
    stacked = [mx.stack(steps, axis=-1).reshape(anchors.size, -1) for steps in (overlaps, valids)]
    return loss / mx.maximum(weight, 1e-6), *stacked


def drafter_loss(weights, drafter, logits, hidden, tokens, anchors, ends):
    """The loss of any drafter on a batch, its overlaps sum(min(p, q)) (B * A, γ) and where they count (B * A, γ)."""
    if isinstance(drafter, Eagle3):
        return eagle3_loss(drafter, logits, hidden, tokens, anchors, ends)
    return block_drafter_loss(weights, drafter, logits, hidden, tokens, anchors, ends)
