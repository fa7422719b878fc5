"""From a drafter's folder to the drafter: its kind is read from its config.json."""

import re
from pathlib import Path

import mlx.core as mx

from dspark_lab.checkpoint import dequantize, load_weights, quantize, quantize_module, read_config, read_weights
from dspark_lab.drafters import DRAFTERS
from dspark_lab.drafters.config import DrafterConfig

# Tensors that Speculators stores beside a head's own: the inverse of d2t, and copies from the target.
UNUSED = re.compile(r"t2d$|verifier_")


def load_drafter(folder, target, bits=0, unquantized=(), dtype=None):
    """The drafter in ``folder`` for ``target``, evaluated.

    ``bits``: quantize its matrices (0: leave them as they are stored), but for the parts ``unquantized``, see
    ``checkpoint.quantize``. Where a device is no good at quantized products (`stays_quantized`) they are dequantized
    again, so that a drafter accepts what it would elsewhere, in another time. ``dtype``: as in ``load_weights``; on a
    GPU None is the target's. Raises FileNotFoundError for a missing file and ValueError, naming folder and fault, for a
    config that no drafter here reads or that does not fit the target, and for tensors that are missing, extra,
    misshapen, damaged or NaN.
    """
    if dtype is None and mx.default_device() != mx.cpu:
        dtype = target.embed(mx.array([0])).dtype  # products of two 16-bit types would be float32's, and slow
    folder = Path(folder)
    raw = read_config(folder)
    try:
        config = DrafterConfig.from_json(raw)
        kind = kind_of(config)
        config.check(target)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
    weights = {name: tensor for name, tensor in read_weights(folder).items() if not UNUSED.match(name)}
    quantization = raw.get("quantization")
    if bits:
        weights = dequantize(weights, quantization) if quantization else weights
        quantization = quantize(weights, bits, unquantized, folder)
    own = {"own_embedding": "embed_tokens.weight" in weights, "own_head": "lm_head.weight" in weights}
    drafter = kind(config, target, **own)
    if quantization and stays_quantized(dtype):
        quantize_module(drafter, weights, quantization)
    elif quantization:
        weights = dequantize(weights, quantization)
    load_weights(drafter, weights, folder, dtype)
    return drafter


def stays_quantized(dtype):
    """Whether quantized matrices are kept, to be multiplied by numbers of ``dtype``.

    A CPU has fast products for float32 matrices alone. On CUDA MLX 0.32.4 fails to launch some kernels that multiply
    quantized ones by float32 numbers ("invalid argument").
    """
    return mx.default_device() != mx.cpu and (mx.metal.is_available() or dtype != mx.float32)


def kind_of(config):
    """The class of ``DRAFTERS`` that reads a checkpoint with this DrafterConfig."""
    for kind in DRAFTERS:
        if kind.reads(config):
            return kind
    raise ValueError(
        f"no drafter here reads a {config.architecture}; "
        f"known are DeepSpec's, z-lab's and Speculators' formats of {', '.join(kind.mode for kind in DRAFTERS)}"
    )
