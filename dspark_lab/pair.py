"""A Pair: a target, its tokenizer and what can draft for it; and loading one from folders or from the Hub."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten

from dspark_lab import hub, memory, registry
from dspark_lab.checkpoint import PARTS, check_numbers, read_config, read_weights, weight_files
from dspark_lab.drafters import Lookup, NoDrafter
from dspark_lab.packaging import one_line

WEIGHTS = Path(__file__).parent / "weights"  # the lab pair that ships with the package
LAB = {"lab": True, "lab-base": False}  # its two versions -> whether the chat adapters are on
HUB_DRAFTER_BITS = 4  # published drafters are in 16 bits; in 4 they cost less time and hardly any acceptance
DTYPES = ("float32", "float16", "bfloat16")


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

    def resolve(self, mode=None):
        """``mode``, or the default mode for None. Raises ValueError that lists the modes for one that is not here."""
        mode = self.default_mode if mode is None else mode
        if mode not in self.drafters:
            raise ValueError(f"mode {mode!r} is not in the pair {self.name}; it has {', '.join(self.modes)}")
        return mode

    def drafter(self, mode=None):
        """The drafter of ``mode``, or of the default mode; its kind's ``mode`` may differ from its name here."""
        return self.drafters[self.resolve(mode)]


def load_pair(target=None, drafter=None, mode=None, *, drafter_bits=None, unquantized=(), dtype=None, force=False):
    """Load a Pair for this machine's default device; on a CPU everything becomes float32.

    ``target``: None or "lab" is the lab pair that ships with the package, "lab-base" its pretrained version before it
    learned to answer, with the same drafters; otherwise a folder (an mlx-lm or plain Hugging Face model, or what
    ``dspark-lab train lab --out DIR`` wrote) or a repository on the Hub ("mlx-community/Qwen3-4B-8bit"), downloaded
    once. ``drafter``: a drafter's folder or repository or a list of them, at most one of a kind; None takes those that
    the lab pair has, or the best that is published for a target on the Hub, whoever converted it to however many bits.
    ``mode``: a mode or a list of them to take instead.

    ``drafter_bits``: quantize drafters to so many bits (2 to 6, or 8), 0 leaves them as they are stored; None quantizes
    those of the Hub to 4 where they are not quantized yet. ``unquantized``: parts left as they are, "fc" or "heads".
    ``dtype``: "float32", "float16" or "bfloat16" for what is not quantized; None keeps the target's on a GPU.

    The memory it all needs is estimated first. Raises NotEnoughMemory, with the figures, if there is less, unless
    ``force``; FileNotFoundError for what is not there; ValueError, naming folder and fault, for what cannot be loaded
    or does not fit.
    """
    name = "lab" if target is None else target
    dtype, root = check_options(drafter_bits, unquantized, dtype), locate(name)
    is_lab = isinstance(root, Path) and has_base(root)
    adapters = root / "instruct" if is_lab and LAB.get(name, True) else None
    source = hub.look_up(root / "base" if is_lab else root)
    found = [hub.look_up(place) for place in drafter_places(root, name, source.config, drafter, mode)]
    sources = [(part, bits_of(part, drafter_bits)) for part in found]
    announce(name, [source, *found], memory.estimate(source, sources, dtype, whole=bool(adapters)), force)

    folder = source.fetch()
    loaded, config = load_target(folder, adapters, dtype)
    tokenizer = load_tokenizer(folder, config)
    drafters, folders = load_drafters(sources, loaded, unquantized, dtype)
    memory.keep_resident()
    pair = Pair(
        target=loaded,
        drafters=drafters,
        tokenizer=tokenizer,
        stop_tokens=stop_tokens(tokenizer, config),
        name=root.name if isinstance(root, Path) and name not in LAB else name,
        folders={"target": folder, **folders},
    )
    for asked in as_list(mode):
        pair.drafter(asked)  # refuses one that the drafters given are not of
    return pair


def check_options(drafter_bits, unquantized, dtype):
    """The mlx type of the name ``dtype`` (or None). Raises ValueError for bits, parts or a type there are not."""
    if drafter_bits not in (None, 0, 2, 3, 4, 5, 6, 8):
        raise ValueError(f"drafter_bits is {drafter_bits!r}; give 2, 3, 4, 5, 6 or 8, or 0 to leave drafters as stored")
    if unknown := [part for part in unquantized if part not in PARTS]:
        raise ValueError(f"a drafter has no part {unknown[0]!r} to leave unquantized; give some of {', '.join(PARTS)}")
    if dtype not in (None, *DTYPES):
        raise ValueError(f"dtype is {dtype!r}; give one of {', '.join(DTYPES)}")
    return dtype and getattr(mx, dtype)


def as_list(value):
    """``value``, one thing, several or None, as a list."""
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]


def locate(name):
    """Where ``name`` (str or Path) is: a folder (Path) or a repository on the Hub (str)."""
    return WEIGHTS if name in LAB else name if hub.is_repository(name) else local_folder(name)


def local_folder(name):
    """The folder that ``name`` (str or Path) stands for. Raises FileNotFoundError if there is none."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{str(name)!r} is no folder on this machine; give the path of a checkpoint's folder, a repository on the "
            f"Hub as OWNER/NAME, or {', '.join(LAB)}; `dspark-lab pairs` lists what is known"
        )
    return folder.resolve()


def has_base(root):
    """Whether the folder ``root`` is laid out as a lab pair. Raises FileNotFoundError for one that is not whole."""
    if (root / "base").is_dir():
        if not (root / "instruct").is_dir():
            raise FileNotFoundError(
                f"{root} has base/ but no instruct/; let `dspark-lab train lab --out {root}` finish"
            )
        return True
    if root == WEIGHTS:
        raise FileNotFoundError(
            f"the lab pair's weights are not in {root}; make them with `dspark-lab train lab --out DIR`, "
            "and load them with load_pair(DIR)"
        )
    return False


def drafter_places(root, name, config, drafter, mode):
    """Where the drafters asked for are, or with ``drafter`` None those that lie in ``root`` or are published for it.

    ``root``: the target's place; ``name``: what it was called; ``config``: its config.json.
    """
    from dspark_lab.drafters import DRAFTERS

    if drafter is not None:
        return [locate(place) for place in as_list(drafter)]
    known, modes = registry.find(str(name)), as_list(mode)
    published = known.drafters if known else {}
    if isinstance(root, Path):
        beside = {kind.mode: root / kind.mode for kind in DRAFTERS if (root / kind.mode).is_dir()}
        return registry.choose(modes, {**published, **beside}, name) if modes else list(beside.values())
    if not known and not (modes and all(asked in ("baseline", "lookup") for asked in modes)):
        raise ValueError(registry.no_drafter(name, config))
    return registry.choose(modes or list(published)[:1], published, name)


def bits_of(part, drafter_bits):
    """How many bits to quantize the drafter ``part`` (a Checkpoint) to; 0: none."""
    if drafter_bits is not None:
        return drafter_bits
    return HUB_DRAFTER_BITS if hub.is_repository(part.name) and "quantization" not in part.config else 0


def announce(name, parts, need, force):
    """Say on stderr what a large pair needs before it is fetched. Raises NotEnoughMemory if there is less."""
    missing = sum(part.missing for part in parts)
    if missing or need.total > memory.GB:
        download = f"{missing / memory.GB:.1f} GB to download, " if missing else ""
        print(f"{name}: {download}{need}", file=sys.stderr)
    memory.check(need, force)


def load_target(folder, adapters=None, dtype=None):
    """The mlx-lm model in ``folder`` as a Target, and its config.json; with LoRA ``adapters`` (a folder) folded in.

    On a CPU, or with adapters, quantized weights are dequantized; on a CPU all becomes float32, the only type that goes
    through BLAS there. ``dtype``: the mlx type that the rest is cast to instead.
    """
    from dspark_lab.packaging import load_language_model
    from dspark_lab.target import Target

    read_config(folder)
    weight_files(folder)
    model, config = load_language_model(folder)
    check_numbers(dict(tree_flatten(model.parameters())), folder)
    if adapters or mx.default_device() == mx.cpu:
        to_float32(model)
    if adapters:
        fold_in_adapters(model, adapters)
    if dtype:
        model.set_dtype(dtype)
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
        raise ValueError(f"mlx-lm cannot load the adapters in {folder}: {one_line(error)}") from error
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


def load_drafters(sources, target, unquantized, dtype):
    """The drafters in ``sources``, pairs of a Checkpoint and bits, by mode, and their folders by mode."""
    from dspark_lab.drafters.load import load_drafter

    drafters, folders = {}, {}
    for part, bits in sources:
        folder = part.fetch()
        drafter = load_drafter(folder, target, bits, unquantized, dtype)
        if drafter.mode in drafters:
            raise ValueError(f"{folders[drafter.mode]} and {folder} are both {drafter.mode} drafters; give one of them")
        drafters[drafter.mode], folders[drafter.mode] = drafter, folder
    return drafters, folders
