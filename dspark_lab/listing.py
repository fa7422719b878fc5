"""What pairs there are: the lab pair, read from its folders without loading a weight, and the published ones."""

from math import prod

from rich.table import Table
from safetensors import safe_open

from dspark_lab import memory, pair
from dspark_lab.checkpoint import read_config, weight_files
from dspark_lab.drafters import DRAFTERS
from dspark_lab.registry import PUBLISHED


def lab_pair():
    """A table of the pair that ships with the package, a row a part. Raises FileNotFoundError without its weights."""
    root = pair.WEIGHTS
    pair.has_base(root)  # refuses where there are none
    table = Table(title="lab, the pair that ships with the package", title_justify="left")
    for name in ("mode", "part", "block", "parameters", "on disk"):
        table.add_column(name, justify="left" if name in ("mode", "part") else "right")
    base = read_config(root / "base")
    shape = f"{base['num_hidden_layers']} layers of {base['hidden_size']}, vocabulary {base['vocab_size']}, "
    shape += f"context {base['max_position_embeddings']}"
    table.add_row("baseline", f"target: {shape}", "", *size(root / "base", base))
    table.add_row("", "its adapters, which answer chats (--model lab-base: without)", "", *size(root / "instruct", {}))
    for mode in (kind.mode for kind in DRAFTERS if (root / kind.mode).is_dir()):
        config = read_config(root / mode)
        block = config.get("block_size") or config["ttt_length"]
        layers = config["num_hidden_layers"]
        part = f"drafter: {layers} layer{'s' * (layers > 1)}, {head(config)}"
        table.add_row(mode, part, str(block), *size(root / mode, config))
    table.add_row("lookup", "drafter: the text itself", "", "", "")
    return table


def head(config):
    """What stands on a drafter's backbone, in words."""
    if not config.get("markov_rank"):
        return "no Markov head"
    confidence = " and confidence head" if config.get("enable_confidence_head") else ""
    return f"{config['markov_head_type']} Markov head{confidence}"


def size(folder, config):
    """How many parameters the tensors in ``folder`` stand for, and the megabytes that they take, as two strings."""
    files = weight_files(folder, "*.safetensors")
    count = parameters(files, config.get("quantization", {}).get("bits"))
    return f"{count / 1e6:.2f} M", f"{sum(file.stat().st_size for file in files) / 1e6:.1f} MB"


def parameters(files, bits):
    """The parameters in safetensors ``files``; of quantized ones 32 / ``bits`` are packed into each number of a weight.

    All files together: a shard may hold a weight whose scales lie in another.
    """
    shapes, count = {}, 0
    for file in files:
        with safe_open(file, framework="numpy") as tensors:
            shapes |= {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
    for name, shape in shapes.items():
        stem, _, kind = name.rpartition(".")
        packed = f"{stem}.scales" in shapes
        if not (packed and kind in ("scales", "biases")):
            count += prod(shape) * (32 // bits if packed and kind == "weight" else 1)
    return count


def published():
    """A table of the published targets with what drafts for them and the gigabytes that both will take, about."""
    table = Table(title="published, downloaded from the Hub when first used", title_justify="left")
    for name, justify in (("target", "left"), ("mode", "left"), ("drafter", "left"), ("8-bit", "right")):
        table.add_column(name, justify=justify, overflow="fold")
    table.add_column("4-bit", justify="right")
    for known in PUBLISHED:
        for i, (mode, repository) in enumerate(known.drafters.items()):
            sizes = [f"{gigabytes(known, bits):.0f} GB" for bits in (8, 4)] if i == 0 else ["", ""]
            table.add_row(
                "" if i else known.converted, mode, repository, *sizes, end_section=i == len(known.drafters) - 1
            )
    return table


def gigabytes(known, bits, on_cpu=False):
    """What a Published target in ``bits`` needs with its best drafter in 4 bits, about; in float32 on a CPU."""
    widths = (32, 32) if on_cpu else (bits + 0.5, pair.HUB_DRAFTER_BITS + 0.5)
    weights = known.billions * widths[0] + (known.drafter_billions or 0) * widths[1]
    return weights / 8 * (1 + memory.PASSES)


def figures():
    """A table of what others have measured with the published pairs."""
    table = Table(title="what others have measured", title_justify="left")
    for name in ("target", "figure", "machine", "source"):
        table.add_column(name)
    for known in PUBLISHED:
        for figure in known.figures:
            table.add_row(known.name, figure.what, figure.machine, figure.source)
    return table
