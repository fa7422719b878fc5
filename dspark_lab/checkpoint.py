"""Reading checkpoint folders: config.json and safetensors, checked before anything is built from them.

Nothing from a checkpoint is executed, since anybody can publish one: weights are read from safetensors files alone
(they hold numbers; a pickle runs code when it is opened), and code that a config names is not imported.
"""

import json

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from safetensors import SafetensorError, safe_open

INDEX = "model.safetensors.index.json"  # says which shard holds which tensor
HEADS = ("embed_tokens", "lm_head", "markov_head")
PARTS = {"fc": ("fc",), "heads": HEADS}  # of a drafter, that may be left unquantized


def read_config(folder, name="config.json"):
    """The parsed JSON object in the file ``name`` of ``folder``."""
    path = folder / name
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no {name}; give the folder of a model or drafter checkpoint")
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); download it again") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds a {type(config).__name__} rather than an object; download it again")
    return config


def weight_files(folder, pattern="model*.safetensors"):
    """The files of ``folder`` that hold a checkpoint's tensors, at least one, each checked to be whole."""
    files = sorted(folder.glob(pattern))
    if not files:
        raise FileNotFoundError(f"{folder} has no {pattern} file; weights in other formats are not read")
    for path in files:
        check_whole(path)
    if pattern.startswith("model") and (folder / INDEX).is_file():
        named = set(read_config(folder, INDEX).get("weight_map", {}).values())
        if absent := sorted(named - {file.name for file in files}):
            raise FileNotFoundError(f"{folder} lacks {', '.join(absent)}, which its index names; download it again")
    return files


def check_whole(path):
    """Raise ValueError if the safetensors file at ``path`` is truncated or not one at all."""
    try:
        with safe_open(path, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged or incomplete ({error}); download it again") from None


def read_weights(folder, pattern="model*.safetensors"):
    """All tensors of the checkpoint in ``folder``, by name (lazy)."""
    weights = {}
    for path in weight_files(folder, pattern):
        weights.update(mx.load(str(path)))
    return weights


def dequantize(weights, quantization):
    """``weights`` with every quantized triple (weight, scales, biases) turned back into one float32 tensor.

    ``quantization``: the entry of that name in config.json, ``group_size`` and ``bits``; what it says under a layer's
    own name goes for that layer. Raises ValueError for modes other than MLX's affine one.
    """
    plain = {}
    for name, tensor in weights.items():
        stem, _, kind = name.rpartition(".")
        if f"{stem}.scales" not in weights or kind == "bias":
            plain[name] = tensor
        elif kind == "weight":
            own = {**quantization, **quantization.get(stem, {})}
            if own.get("mode", "affine") != "affine":
                raise ValueError(f'the weights are quantized in mode {own["mode"]!r}; only "affine" is read here')
            scales, biases = (weights[f"{stem}.{part}"].astype(mx.float32) for part in ("scales", "biases"))
            plain[name] = mx.dequantize(tensor, scales, biases, group_size=own["group_size"], bits=own["bits"])
    return plain


def quantize(weights, bits, unquantized=(), folder=""):
    """Quantize a drafter's matrices to ``bits`` in MLX's affine mode, in place; returns what config.json would say.

    Groups are of 64 numbers, of 32 where rows do not divide by 64; rows that divide by neither stay whole, and so do
    the confidence head (one row) and the parts ``unquantized`` ("fc", "heads"). ``dequantize`` is the inverse. Matrices
    are read one at a time, so that no two of them are in memory whole. Raises ValueError that names the ``folder`` for
    a NaN, which could not be told any more once it is packed.
    """
    kept = ("confidence_head", *(stem for part in unquantized for stem in PARTS[part]))
    settings = {"group_size": 64, "bits": bits}
    for name in [name for name, tensor in weights.items() if name.endswith(".weight") and tensor.ndim == 2]:
        stem, width = name.removesuffix(".weight"), weights[name].shape[1]
        size = next((size for size in (64, 32) if width % size == 0), None)
        if size is None or stem.split(".")[0] in kept:
            continue
        check_numbers({name: weights[name]}, folder)
        packed = mx.quantize(weights.pop(name), size, bits)
        mx.eval(packed)
        weights |= zip((name, f"{stem}.scales", f"{stem}.biases"), packed)
        settings[stem] = {"group_size": size, "bits": bits}
    return settings


def quantize_module(module, weights, quantization):
    """Make the layers of ``module`` quantized for which ``weights`` holds scales, as ``quantization`` says."""
    defaults = {name: quantization[name] for name in ("group_size", "bits", "mode") if name in quantization}
    nn.quantize(
        module,
        class_predicate=lambda name, _: f"{name}.scales" in weights and {**defaults, **quantization.get(name, {})},
    )


def load_weights(module, weights, folder, dtype=None):
    """Put ``weights`` into ``module``, cast to ``dtype`` (None: float32 on a CPU, which its BLAS does, else as stored).

    Raises ValueError that names tensors missing, extra, misshapen, NaN, or of fractions where integers belong.
    """
    expected = dict(tree_flatten(module.parameters()))
    problems = [
        f"{name} is missing, expected shape {expected[name].shape}" for name in expected.keys() - weights.keys()
    ]
    problems += [f"{name} {weights[name].shape} belongs to no part of it" for name in weights.keys() - expected.keys()]
    problems += [
        f"{name} has shape {weights[name].shape}, expected {expected[name].shape}"
        for name in expected.keys() & weights.keys()
        if weights[name].shape != expected[name].shape
    ]
    problems += [
        f"{name} holds {weights[name].dtype}, expected integers"
        for name in expected.keys() & weights.keys()
        if mx.issubdtype(expected[name].dtype, mx.integer) and not mx.issubdtype(weights[name].dtype, mx.integer)
    ]
    if problems:
        raise ValueError(f"the weights in {folder} do not fit its config.json: {'; '.join(sorted(problems))}")
    check_numbers(weights, folder)
    module.load_weights(list(weights.items()))
    if dtype := dtype or (mx.float32 if mx.default_device() == mx.cpu else None):
        module.set_dtype(dtype)  # floating-point tensors only: packed weights stay as they are
    mx.eval(module.parameters())


def check_numbers(weights, folder):
    """Raise ValueError that names every floating-point tensor of ``weights`` (name -> tensor) that holds a NaN."""
    found = {
        name: mx.any(mx.isnan(tensor)) for name, tensor in weights.items() if mx.issubdtype(tensor.dtype, mx.floating)
    }
    mx.eval(found)
    if bad := sorted(name for name, is_bad in found.items() if is_bad.item()):
        raise ValueError(f"the weights in {folder} cannot be used: {', '.join(bad)} hold NaN; download them again")
