"""Reading a drafter's folder: config.json and safetensors, checked against the architecture and the target."""

import json
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten
from safetensors import SafetensorError, safe_open

from dspark_lab.drafters import DRAFTERS
from dspark_lab.drafters.config import DrafterConfig


def load_drafter(folder, target):
    """The drafter in ``folder`` for ``target``, evaluated; its kind is read from its config.json.

    Raises FileNotFoundError for a missing file and ValueError, naming what is wrong, for a config that no drafter
    here reads or that does not fit the target, and for tensors that are missing, extra, misshapen, damaged or NaN.
    """
    folder = Path(folder)
    raw = read_config(folder)
    config = DrafterConfig.from_json(raw)
    kinds = [kind for kind in DRAFTERS if kind.reads(config)]
    if not kinds:
        raise ValueError(
            f"{folder} holds a {config.architecture}, which no drafter here reads; "
            f"known are DeepSpec's and z-lab's formats of {', '.join(kind.mode for kind in DRAFTERS)}"
        )
    config.check(target)
    weights = read_weights(folder)
    if quantization := raw.get("quantization"):
        weights = dequantize(weights, **quantization)
    own = {"own_embedding": "embed_tokens.weight" in weights, "own_head": "lm_head.weight" in weights}
    drafter = kinds[0](config, target, **own)
    load_weights(drafter, weights, folder)
    return drafter


def read_config(folder):
    """The parsed config.json of ``folder``."""
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no config.json; give the folder of a model or drafter checkpoint")
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); download it again") from None


def read_weights(folder):
    """All tensors of the safetensors files in ``folder``, by name (lazy); each file is checked to be whole first."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{folder} has no *.safetensors file; weights in other formats are not read")
    weights = {}
    for path in files:
        check_whole(path)
        weights.update(mx.load(str(path)))
    return weights


def check_whole(path):
    """Raise ValueError if the safetensors file at ``path`` is truncated or not one at all."""
    try:
        with safe_open(path, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged or incomplete ({error}); download it again") from None


def dequantize(weights, group_size, bits):
    """``weights`` with every quantized triple (weight, scales, biases) turned back into one float32 tensor."""
    plain = {}
    for name, tensor in weights.items():
        stem, _, kind = name.rpartition(".")
        if f"{stem}.scales" not in weights:
            plain[name] = tensor
        elif kind == "weight":
            scales, biases = (weights[f"{stem}.{part}"].astype(mx.float32) for part in ("scales", "biases"))
            plain[name] = mx.dequantize(tensor, scales, biases, group_size=group_size, bits=bits)
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
    if not problems:
        if mx.default_device() == mx.cpu:  # float32 is what the BLAS does
            weights = {name: tensor.astype(mx.float32) for name, tensor in weights.items()}
        module.load_weights(list(weights.items()))
        mx.eval(module.parameters())
        problems = nan_tensors(module)
    if problems:
        raise ValueError(f"the weights in {folder} do not fit its config.json: {'; '.join(sorted(problems))}")


def nan_tensors(module):
    """A complaint for every floating-point parameter of ``module`` that holds a NaN."""
    found = {
        name: mx.any(mx.isnan(tensor))
        for name, tensor in tree_flatten(module.parameters())
        if mx.issubdtype(tensor.dtype, mx.floating)
    }
    mx.eval(found)
    return [f"{name} holds NaN" for name, bad in found.items() if bad.item()]
