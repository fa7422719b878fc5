"""Pairs of a published model's shape with random weights: right for what things cost, meaningless for acceptance."""

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from dspark_lab.pair import Pair

# Hidden size, layers, heads, key/value heads, head size, intermediate size, vocabulary, tied embeddings; then the taps.
FIELDS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim")
FIELDS += ("intermediate_size", "vocab_size", "tie_word_embeddings", "target_layer_ids")
SHAPES = {
    "qwen3-4b": (2560, 36, 32, 8, 128, 9728, 151936, True, [1, 9, 17, 25, 33]),
    "qwen3-8b": (4096, 36, 32, 8, 128, 12288, 151936, False, [1, 9, 17, 25, 33]),
    "tiny": (64, 3, 2, 1, 32, 128, 512, True, [0, 1]),
}
DRAFTER = {"architectures": ["Qwen3DSparkModel"], "num_hidden_layers": 5, "block_size": 7, "tie_word_embeddings": False}
DRAFTER |= {"markov_rank": 256, "markov_head_type": "vanilla", "enable_confidence_head": True, "mask_token_id": 0}
PRECISIONS = (16, 8, 4)


def random_pair(shape, bits):
    """A Pair of ``shape`` (a name in SHAPES): the target in bfloat16 (``bits`` 16) or quantized to 8 or 4 bits.

    Its one drafter is DSpark of DeepSpec's shape, in bfloat16, with embedding and head of its own.
    """
    from mlx_lm.models import qwen3

    from dspark_lab.drafters import DSpark
    from dspark_lab.drafters.config import DrafterConfig
    from dspark_lab.target import Target

    if shape not in SHAPES or bits not in PRECISIONS:
        raise ValueError(f"there is no shape {shape!r} in {bits} bits; give one of {', '.join(SHAPES)} in 16, 8 or 4")
    config = dict(zip(FIELDS, SHAPES[shape])) | {"model_type": "qwen3", "rms_norm_eps": 1e-6, "rope_theta": 1e6}
    config |= {"max_position_embeddings": 4096, "num_target_layers": config["num_hidden_layers"]}
    model = qwen3.Model(qwen3.ModelArgs.from_dict(config))
    in_bfloat16(model)
    if bits < 16:
        nn.quantize(model, group_size=64, bits=bits)
        mx.eval(model.parameters())
    target = Target(model, config)
    drafter = DSpark(DrafterConfig.from_json(config | DRAFTER), target, own_embedding=True, own_head=True)
    in_bfloat16(drafter)
    return Pair(target, {"dspark": drafter}, name=f"{shape}-random", folders={})


def in_bfloat16(module):
    """Make ``module``'s random weights bfloat16 and compute them, one after the other: they may just fit."""
    module.set_dtype(mx.bfloat16)
    for _, array in tree_flatten(module.parameters()):
        mx.eval(array)
