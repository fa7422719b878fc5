"""Writes the golden checkpoints in the lab pair's layout; the adapters are random."""

import json
import shutil

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm.utils import load_model, save_config, save_model

QUANTIZATION = {"group_size": 64, "bits": 8}
DRAFTERS = {"dspark": "dspark_vanilla", "dflash": "dflash_block7", "dflash16": "zlab_dflash_b16", "eagle3": "eagle3"}
LORA = {"rank": 4, "scale": 2.0, "dropout": 0.0}


def write_lab(golden, out):
    """Fill the folder ``out`` from the folder ``golden``; returns ``out``."""
    model, config = load_model(golden / "target")
    nn.quantize(model, **QUANTIZATION)
    save_model(out / "base", model)
    save_config({**config, "quantization": QUANTIZATION}, out / "base" / "config.json")
    for file in (golden / "target").glob("tokenizer*"):
        shutil.copy(file, out / "base")
    write_adapters(model, out / "instruct")
    for mode, name in DRAFTERS.items():
        write_drafter(golden / name, out / mode)
    return out


def write_adapters(model, folder):
    """Random bfloat16 adapters on every matrix of ``model``, large enough to change what it says."""
    folder.mkdir()
    model.freeze()
    linear_to_lora_layers(model, len(model.layers), LORA)
    shapes = {name: tensor.shape for name, tensor in tree_flatten(model.trainable_parameters())}
    keys = mx.random.split(mx.random.key(0), len(shapes))
    weights = {
        name: 0.1 * mx.random.normal(shape, mx.bfloat16, key=key) for (name, shape), key in zip(shapes.items(), keys)
    }
    mx.save_safetensors(str(folder / "adapters.safetensors"), weights)
    settings = {"fine_tune_type": "lora", "num_layers": len(model.layers), "lora_parameters": LORA}
    (folder / "adapter_config.json").write_text(json.dumps(settings))


def write_drafter(source, folder):
    """The drafter in ``source`` without embedding and head, its matrices in 8 bits where their rows allow."""
    folder.mkdir()
    weights = {}
    for name, tensor in mx.load(str(source / "model.safetensors")).items():
        if name.startswith(("embed_tokens", "lm_head")):
            continue
        weights[name] = tensor
        if tensor.ndim == 2 and tensor.shape[1] % 64 == 0:
            weights[name], weights[name[:-6] + "scales"], weights[name[:-6] + "biases"] = mx.quantize(tensor, 64, 8)
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    config = json.loads((source / "config.json").read_text())
    save_config({**config, "quantization": QUANTIZATION}, folder / "config.json")
