"""Tiny random checkpoints of the architectures that are harder to roll back, saved as published ones are saved."""

import json

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map_with_path

VOCAB, HIDDEN, LAYERS, WINDOW = 48, 32, 6, 12
ROPE = {
    "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1000000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
}
COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 512,
}
GEMMA4 = {
    **COMMON,
    "model_type": "gemma4_text",
    "global_head_dim": 32,
    "num_global_key_value_heads": 1,
    "attention_k_eq_v": True,
    "num_kv_shared_layers": 0,
    "hidden_size_per_layer_input": 0,
    "vocab_size_per_layer_input": VOCAB,
    "use_double_wide_mlp": False,
    "sliding_window": WINDOW,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2,
    "rope_parameters": ROPE,
    "final_logit_softcapping": 30.0,
    "tie_word_embeddings": True,
}
GEMMA4_SHARED = {**GEMMA4, "num_kv_shared_layers": 3, "hidden_size_per_layer_input": 8}  # as its 2B and 4B are
GEMMA4_UNIFIED = {
    "model_type": "gemma4_unified",
    "vocab_size": VOCAB,
    "tie_word_embeddings": True,
    "text_config": {**GEMMA4, "model_type": "gemma4_unified_text"},
    "vision_config": {
        "model_type": "gemma4_unified_vision",
        "model_patch_size": 2,
        "mm_embed_dim": HIDDEN,
        "mm_posemb_size": 8,
        "output_proj_dims": HIDDEN,
    },
}
QWEN35_TEXT = {
    **COMMON,
    "model_type": "qwen3_5_text",
    "full_attention_interval": 3,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 16,
    "linear_conv_kernel_dim": 4,
    "rope_parameters": {"type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
    "tie_word_embeddings": False,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
QWEN35 = {"model_type": "qwen3_5", "text_config": QWEN35_TEXT}
QWEN35_MOE = {
    "model_type": "qwen3_5_moe",
    "text_config": {**QWEN35_TEXT, **EXPERTS, "shared_expert_intermediate_size": 24, "decoder_sparse_step": 1},
}


def write_target(folder, config, model, seed=0):
    """Save ``model``, built from ``config``, with random weights that make it prefer some tokens clearly."""
    randomize(model, seed)
    return write(folder, config, dict(tree_flatten(model.parameters())))


def randomize(module, seed):
    """Weights of unit gain, norms near 1, and whatever else a module sets itself left alone."""
    key = mx.random.key(seed)

    def draw(name, tensor):
        nonlocal key
        key, own = mx.random.split(key)
        if mx.issubdtype(tensor.dtype, mx.integer):
            return tensor
        if tensor.ndim == 1:
            return tensor + 0.1 * mx.random.normal(tensor.shape, key=own)
        gain = 0.4 if "embed" in name else 1.5  # tied to a head, large embeddings would repeat each token for ever
        return gain * mx.random.normal(tensor.shape, key=own) * tensor.shape[-1] ** -0.5

    module.update(tree_map_with_path(draw, module.parameters()))
    mx.eval(module.parameters())


def write(folder, config, weights):
    """A checkpoint folder."""
    folder.mkdir(parents=True, exist_ok=True)
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_mlx_lm(folder, config, seed=0):
    """A checkpoint that mlx-lm's own model of this config wrote."""
    from mlx_lm.utils import _get_classes

    kind, arguments = _get_classes(config)
    return write_target(folder, config, kind(arguments.from_dict(json.loads(json.dumps(config)))), seed)


def write_mlx_vlm(folder, config, seed=0):
    """A checkpoint that mlx-vlm's own model of this config wrote: text, vision and all."""
    from mlx_vlm.utils import get_model_and_args, update_module_configs

    package, _ = get_model_and_args(config)
    raw = json.loads(json.dumps(config)) | {"audio_config": {}}
    arguments = update_module_configs(package.ModelConfig.from_dict(raw), package, raw, ["text", "vision"])
    arguments.audio_config = None
    return write_target(folder, config, package.Model(arguments), seed)


def write_drafter(folder, target, config, seed=1):
    """A random drafter's checkpoint in the format that ``config`` (its config.json) names, for ``target``."""
    from dspark_lab.drafters.config import DrafterConfig
    from dspark_lab.drafters.load import kind_of

    parsed = DrafterConfig.from_json(config)
    borrows = parsed.architecture == "DFlashDraftModel"
    drafter = kind_of(parsed)(parsed, target, own_embedding=not borrows, own_head=not borrows)
    randomize(drafter, seed)
    return write(folder, config, dict(tree_flatten(drafter.parameters())))


DRAFTER = {**COMMON, "num_hidden_layers": 3, "num_target_layers": LAYERS, "target_layer_ids": [0, 2, 4]}
DEEPSPEC = {**DRAFTER, "block_size": 5, "mask_token_id": 4, "rope_theta": 10000.0}
GEMMA4_SHAPE = {
    **{name: GEMMA4[name] for name in ("global_head_dim", "num_global_key_value_heads", "final_logit_softcapping")},
    "attention_k_eq_v": True,
    "rope_parameters": ROPE,
}
HEADS = {"markov_rank": 8, "markov_head_type": "vanilla", "enable_confidence_head": True}
ZLAB = {
    **{name: value for name, value in DRAFTER.items() if name != "target_layer_ids"},
    "architectures": ["DFlashDraftModel"],
    "model_type": "qwen3",
    "tie_word_embeddings": True,
    "block_size": 6,
    "rope_theta": 10000.0,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    "sliding_window": 14,
    "final_logit_softcapping": 20.0,
    "dflash_config": {"mask_token_id": 4, "target_layer_ids": [0, 2, 4]},
}
SPECULATOR = {
    "architectures": ["Eagle3Speculator"],
    "speculators_model_type": "eagle3",
    "transformer_layer_config": {**COMMON, "model_type": "llama", "num_hidden_layers": 1, "rope_theta": 10000.0},
    "draft_vocab_size": 20,
    "norm_before_residual": True,
    "eagle_aux_hidden_state_layer_ids": [1, 3, 5],
    "speculators_config": {"proposal_methods": [{"speculative_tokens": 4}]},
}
