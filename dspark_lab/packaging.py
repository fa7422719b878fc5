"""Loading a target with the package that can: mlx-lm, or mlx-vlm for what mlx-lm's text models do not read."""

from importlib.util import find_spec


def load_language_model(folder):
    """The language model in the checkpoint ``folder``, mlx-lm's or else mlx-vlm's, and its config as a dict.

    A checkpoint that also sees or hears is read for its text alone: mlx-lm leaves the rest out, mlx-vlm never
    evaluates it. mlx-vlm is an extra; it is asked only where mlx-lm could not load such a checkpoint. Raises
    ValueError, with what both said.
    """
    from mlx_lm.utils import load_config, load_model

    config = load_config(folder)
    if config.get("model_file"):  # mlx-vlm would run it unasked
        raise ValueError(f"{folder} brings code of its own ({config['model_file']}), and none is run here")
    try:
        return load_model(folder, trust_remote_code=False)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = f"mlx-lm cannot load {folder}: {one_line(error)}"
        if not any(config.get(part) for part in ("vision_config", "audio_config")):
            raise ValueError(reason) from error
    if find_spec("mlx_vlm") is None:
        raise ValueError(f'{reason}; mlx-vlm may: pip install "dspark-lab[vlm]"')
    try:
        return from_mlx_vlm(folder), config
    except (AttributeError, ImportError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{reason}; and neither can mlx-vlm: {one_line(error)}") from error


def from_mlx_vlm(folder):
    """The language model of mlx-vlm's; its other parts are dropped before their weights are read."""
    from mlx_vlm.utils import load_model

    return load_model(folder, lazy=True).language_model


def one_line(error):
    """What ``error`` says, on one line."""
    return " ".join(str(error).split())
