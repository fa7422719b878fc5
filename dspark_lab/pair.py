"""A Pair: a target, its tokenizer and what can draft for it; and loading one from folders."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten

from dspark_lab.checkpoint import check_numbers, read_config, read_weights, weight_files
from dspark_lab.drafters import Lookup, NoDrafter

WEIGHTS = Path(__file__).parent / "weights"  # the lab pair that ships with the package
LAB = {"lab": True, "lab-base": False}  # its two versions -> whether the chat adapters are on


@dataclass
class Pair:
    """What ``generate`` needs.

    ``target``: a Target. ``drafters``: mode -> drafter; "baseline" (none) and "lookup" (no weights) are always among
    them. ``tokenizer``: mlx-lm's TokenizerWrapper, or None where the target's folder has none. ``stop_tokens``: the ids
    that end a text. ``name``: for people. ``folders``: "target" and each mode with weights -> where it came from.
    """

    target: Any
    drafters: dict
    tokenizer: Any = None
    stop_tokens: frozenset = frozenset()
    name: str = ""
    folders: dict = field(default_factory=dict)

    def __post_init__(self):
        self.drafters = {"baseline": NoDrafter(), "lookup": Lookup(self.target.vocab_size), **self.drafters}

    @property
    def modes(self):
        """The names that ``mode`` can take."""
        return tuple(self.drafters)

    @property
    def default_mode(self):
        """The best drafter with weights that the pair has: dspark, dflash, dflash16 or eagle3; else "lookup"."""
        from dspark_lab.drafters import DRAFTERS

        return next((kind.mode for kind in DRAFTERS if kind.mode in self.drafters), "lookup")

    def drafter(self, mode=None):
        """The drafter of ``mode``, or of the default mode. Raises ValueError that lists the modes for another."""
        mode = self.default_mode if mode is None else mode
        if mode not in self.drafters:
            raise ValueError(f"mode {mode!r} is not in the pair {self.name}; it has {', '.join(self.modes)}")
        return self.drafters[mode]


def load_pair(target=None, drafter=None):
    """Load a Pair from local folders, for this machine's default device; on a CPU everything becomes float32.

    ``target``: None or "lab" is the lab pair that ships with the package, "lab-base" its pretrained version before it
    learned to answer, with the same drafters; otherwise a folder: an mlx-lm (or plain Hugging Face) model, or what
    ``dspark-lab train lab --out DIR`` wrote. ``drafter``: a drafter's folder or a list of them, at most one of a kind;
    None takes those that the lab pair has. Raises FileNotFoundError for what is not there and ValueError, naming folder
    and fault, for what cannot be loaded or does not fit.
    """
    name = "lab" if target is None else target
    root = WEIGHTS if name in LAB else local_folder(name)
    if root == WEIGHTS and not (root / "base").is_dir():
        raise FileNotFoundError(
            f"the lab pair's weights are not in {root}; make them with `dspark-lab train lab --out DIR`, "
            "and load them with load_pair(DIR)"
        )
    is_lab = (root / "base").is_dir()
    folder, adapters = (root / "base", root / "instruct") if is_lab else (root, None)
    if is_lab and not adapters.is_dir():
        raise FileNotFoundError(f"{root} has base/ but no instruct/; let `dspark-lab train lab --out {root}` finish")
    loaded, config = load_target(folder, adapters if LAB.get(name, True) else None)
    tokenizer = load_tokenizer(folder, config)
    drafters, folders = load_drafters(drafter_folders(root, drafter), loaded)
    return Pair(
        target=loaded,
        drafters=drafters,
        tokenizer=tokenizer,
        stop_tokens=stop_tokens(tokenizer, config),
        name=name if name in LAB else root.name,
        folders={"target": folder, **folders},
    )


def local_folder(name):
    """The folder that ``name`` (str or Path) stands for. Raises FileNotFoundError if there is none."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{str(name)!r} is no folder on this machine; give the path of a checkpoint's folder, or {', '.join(LAB)} "
            "(repositories on the Hub are not read yet: download one and give its folder)"
        )
    return folder.resolve()


def load_target(folder, adapters=None):
    """The mlx-lm model in ``folder`` as a Target, and its config.json; with LoRA ``adapters`` (a folder) folded in.

    On a CPU, or with adapters, quantized weights are dequantized; on a CPU all becomes float32, the only type that goes
    through BLAS there.
    """
    from mlx_lm.utils import load_model

    from dspark_lab.target import Target

    read_config(folder)
    weight_files(folder)
    try:
        model, config = load_model(folder, trust_remote_code=False)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"mlx-lm cannot load {folder}: {' '.join(str(error).split())}") from error
    check_numbers(dict(tree_flatten(model.parameters())), folder)
    if adapters or mx.default_device() == mx.cpu:
        to_float32(model)
    if adapters:
        fold_in_adapters(model, adapters)
    mx.eval(model.parameters())
    return Target(model, config), config


def to_float32(model):
    """Dequantize ``model`` in place; scales are cast before they are used, so that nothing is rounded on the way."""
    from mlx_lm.utils import dequantize_model

    model.set_dtype(mx.float32)
    dequantize_model(model)


def fold_in_adapters(model, folder):
    """Add the LoRA adapters in ``folder`` to ``model``'s own matrices (in place), so that they cost nothing to run."""
    from mlx_lm.tuner.utils import load_adapters

    read_config(folder, "adapter_config.json")
    weights = read_weights(folder, "adapters.safetensors")
    check_numbers(weights, folder)
    try:
        load_adapters(model, str(folder))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"mlx-lm cannot load the adapters in {folder}: {' '.join(str(error).split())}") from error
    adapted = {name for name, _ in tree_flatten(model.parameters()) if name.endswith(("lora_a", "lora_b"))}
    if missing := sorted(adapted - weights.keys()):  # mlx-lm would leave them at their initial values
        raise ValueError(f"the adapters in {folder} lack {', '.join(missing)}")
    model.set_dtype(mx.float32)
    fused = [(name, module.fuse()) for name, module in model.named_modules() if hasattr(module, "fuse")]
    model.update_modules(tree_unflatten(fused))


def load_tokenizer(folder, config):
    """mlx-lm's TokenizerWrapper of the tokenizer in ``folder``, or None if it has none."""
    from mlx_lm.utils import load_tokenizer as load

    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")):
        return None
    try:
        return load(folder, {"trust_remote_code": False}, eos_token_ids=config.get("eos_token_id"))
    except Exception as error:  # what a damaged tokenizer.json raises is up to three libraries
        raise ValueError(f"the tokenizer in {folder} cannot be loaded: {error}") from error


def stop_tokens(tokenizer, config):
    """The ids that end a text: the tokenizer's, which include config.json's, or without a tokenizer config.json's."""
    if tokenizer is not None:
        return frozenset(tokenizer.eos_token_ids)
    ids = config.get("eos_token_id")
    return frozenset() if ids is None else frozenset([ids] if isinstance(ids, int) else ids)


def drafter_folders(root, drafter):
    """The folders of the drafters asked for, or, with ``drafter`` None, of those that lie in ``root``."""
    from dspark_lab.drafters import DRAFTERS

    if drafter is None:
        return [root / kind.mode for kind in DRAFTERS if (root / kind.mode).is_dir()]
    return [local_folder(folder) for folder in (drafter if isinstance(drafter, list | tuple) else [drafter])]


def load_drafters(folders, target):
    """The drafters in ``folders`` by mode, and their folders by mode."""
    from dspark_lab.drafters.load import load_drafter

    drafters, sources = {}, {}
    for folder in folders:
        drafter = load_drafter(folder, target)
        if drafter.mode in drafters:
            raise ValueError(f"{sources[drafter.mode]} and {folder} are both {drafter.mode} drafters; give one of them")
        drafters[drafter.mode], sources[drafter.mode] = drafter, folder
    return drafters, sources
