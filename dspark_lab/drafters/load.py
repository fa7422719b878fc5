"""From a drafter's folder to the drafter: its kind is read from its config.json."""

from pathlib import Path

from dspark_lab.checkpoint import dequantize, load_weights, read_config, read_weights
from dspark_lab.drafters import DRAFTERS
from dspark_lab.drafters.config import DrafterConfig


def load_drafter(folder, target):
    """The drafter in ``folder`` for ``target``, evaluated.

    Raises FileNotFoundError for a missing file and ValueError, naming folder and fault, for a config that no drafter
    here reads or that does not fit the target, and for tensors that are missing, extra, misshapen, damaged or NaN.
    """
    folder = Path(folder)
    raw = read_config(folder)
    try:
        config = DrafterConfig.from_json(raw)
        kind = kind_of(config)
        config.check(target)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
    weights = read_weights(folder)
    if quantization := raw.get("quantization"):
        weights = dequantize(weights, quantization)
    own = {"own_embedding": "embed_tokens.weight" in weights, "own_head": "lm_head.weight" in weights}
    drafter = kind(config, target, **own)
    load_weights(drafter, weights, folder)
    return drafter


def kind_of(config):
    """The class of ``DRAFTERS`` that reads a checkpoint with this DrafterConfig."""
    for kind in DRAFTERS:
        if kind.reads(config):
            return kind
    raise ValueError(
        f"no drafter here reads a {config.architecture}; "
        f"known are DeepSpec's and z-lab's formats of {', '.join(kind.mode for kind in DRAFTERS)}"
    )
