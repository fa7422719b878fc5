"""Reading checkpoint folders: config.json and safetensors, checked before anything is built from them.

Nothing from a checkpoint is executed, since anybody can publish one: weights are read from safetensors files alone
(they hold numbers; a pickle runs code when it is opened), and code that a config names is not imported.
"""

import json

import mlx.core as mx
from mlx.utils import tree_flatten
from safetensors import SafetensorError, safe_open


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
    if quantization.get("mode", "affine") != "affine":
        raise ValueError(f'the weights are quantized in mode {quantization["mode"]!r}; only "affine" is read here')
    plain = {}
    for name, tensor in weights.items():
        stem, _, kind = name.rpartition(".")
        if f"{stem}.scales" not in weights or kind == "bias":
            plain[name] = tensor
        elif kind == "weight":
            scales, biases = (weights[f"{stem}.{part}"].astype(mx.float32) for part in ("scales", "biases"))
            own = {**quantization, **quantization.get(stem, {})}
            plain[name] = mx.dequantize(tensor, scales, biases, group_size=own["group_size"], bits=own["bits"])
    return plain


def load_weights(module, weights, folder):
    """Put ``weights`` into ``module``. Raises ValueError that names tensors missing, extra, misshapen or NaN."""
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
    if problems:
        raise ValueError(f"the weights in {folder} do not fit its config.json: {'; '.join(sorted(problems))}")
    check_numbers(weights, folder)
    if mx.default_device() == mx.cpu:  # float32 is what the BLAS does
        weights = {name: tensor.astype(mx.float32) for name, tensor in weights.items()}
    module.load_weights(list(weights.items()))
    mx.eval(module.parameters())


def check_numbers(weights, folder):
    """Raise ValueError that names every floating-point tensor of ``weights`` (name -> tensor) that holds a NaN."""
    found = {
        name: mx.any(mx.isnan(tensor)) for name, tensor in weights.items() if mx.issubdtype(tensor.dtype, mx.floating)
    }
    mx.eval(found)
    if bad := sorted(name for name, is_bad in found.items() if is_bad.item()):
        raise ValueError(f"the weights in {folder} cannot be used: {', '.join(bad)} hold NaN; download them again")
