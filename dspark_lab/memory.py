"""How much memory a pair will need here, reckoned from file sizes and config.json before anything is loaded."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

CONTEXT = 4096  # tokens whose keys and values are reckoned with
PASSES = 0.1  # what passes compute on the way, as a share of the rest
ITEM_BITS = {"float32": 32, "float16": 16, "bfloat16": 16}
GB = 1e9


class NotEnoughMemory(ValueError):
    """A pair that is larger than what this machine can give it."""


@dataclass(frozen=True)
class Need:
    """Bytes that a pair needs: ``target`` and ``drafters`` hold weights, ``caches`` keys and values of ``context``."""

    target: float
    drafters: float
    caches: float
    context: int

    @property
    def total(self):
        """All of it, and what passes compute."""
        return (self.target + self.drafters + self.caches) * (1 + PASSES)

    def __str__(self):
        return (
            f"about {self.total / GB:.1f} GB of memory (target {self.target / GB:.1f}, drafters "
            f"{self.drafters / GB:.1f}, keys and values of {self.context} tokens {self.caches / GB:.1f}, and room)"
        )


def estimate(target, drafters, dtype=None, whole=False):
    """The Need of a ``target`` (a Checkpoint) with ``drafters``: pairs of a Checkpoint and the bits it is quantized to.

    Bits of 0: as stored. ``dtype``: the mlx type that all is cast to, or None; a CPU multiplies float32. ``whole``: the
    target is dequantized.
    """
    parts, on_cpu = [target, *(drafter for drafter, _ in drafters)], mx.default_device() == mx.cpu
    width = dtype.size if dtype else 4 if on_cpu or whole else None  # bytes a number, or None: as stored
    context = min(CONTEXT, text_config(target.config).get("max_position_embeddings") or CONTEXT)
    return Need(
        target=held(target, width, whole or on_cpu),
        drafters=sum(held(drafter, width, on_cpu, bits) for drafter, bits in drafters),
        caches=sum(cache_bytes(part.config, context, width or item_bits(part.config) // 8) for part in parts),
        context=context,
    )


def held(part, width, whole, bits=0):
    """Bytes of a checkpoint's weights once loaded; ``width``, ``whole`` and ``bits`` as in ``estimate``."""
    stored = stored_bits(part.config)
    if bits and not whole:
        return part.size * (bits + 0.5) / stored
    return part.size * 8 * width / stored if whole or (width and not quantization(part.config)) else part.size


def stored_bits(config):
    """Bits that a checkpoint's files take a parameter; of quantized ones, with a group's 16-bit scale and bias."""
    if settings := quantization(config):
        return settings["bits"] + 32 / settings.get("group_size", 64)
    return item_bits(config)


def item_bits(config):
    """Bits of a number that is not quantized, as a config.json names the type; 16 where it does not."""
    names = (part.get(entry) for part in (config, text_config(config)) for entry in ("dtype", "torch_dtype"))
    return ITEM_BITS.get(next((name for name in names if name), "bfloat16"), 16)


def quantization(config):
    """What a config.json says of how its weights are quantized; None of those that are not."""
    return config.get("quantization") or text_config(config).get("quantization")


def text_config(config):
    """What a config.json says of the language model: models that also see keep it apart, Speculators' heads in part."""
    return config.get("text_config") or {**(config.get("transformer_layer_config") or {}), **config}


def cache_bytes(config, tokens, width):
    """Bytes of the keys and values of ``tokens`` tokens; what linear-attention layers keep is small and left out.

    A config.json that lacks what this needs counts 0: it is for loading to say so.
    """
    text = text_config(config)
    try:
        return keys_values_bytes(text, tokens, width)
    except (KeyError, TypeError):
        return 0


def keys_values_bytes(text, tokens, width):
    """``cache_bytes`` of a language model whose config is ``text``. Raises KeyError or TypeError for one not whole."""
    kinds = text.get("layer_types") or ["full_attention"] * text["num_hidden_layers"]
    heads = text.get("num_key_value_heads") or text["num_attention_heads"]
    size = text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"]
    full = (text.get("num_global_key_value_heads") or heads) * (text.get("global_head_dim") or size)  # Gemma-4's
    window = min(tokens, text.get("sliding_window") or tokens)
    numbers = {"full_attention": tokens * full, "sliding_attention": window * heads * size}
    return 2 * width * sum(numbers.get(kind, 0) for kind in kinds)


def available():
    """Bytes that a pair may take here, and who says so, in words."""
    if mx.default_device() != mx.cpu:
        info = mx.device_info()
        if limit := info.get("max_recommended_working_set_size"):
            return limit, "Metal recommends at most"
        return info.get("free_memory") or info.get("total_memory"), "the GPU has"
    if sys.platform != "linux":
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), "this machine has"
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    free = next(int(words[1]) * 1024 for words in lines if words[0] == "MemAvailable:")
    return min(free, container_limit()), "free here are"


def container_limit(folder=Path("/sys/fs/cgroup")):
    """Bytes that this Linux container (cgroup version 2) may still take; infinite outside of one."""
    limit, used = (folder / name for name in ("memory.max", "memory.current"))
    if not limit.is_file() or not used.is_file() or limit.read_text().strip() == "max":
        return float("inf")
    stat = folder / "memory.stat"
    counts = dict(line.split() for line in stat.read_text().splitlines()) if stat.is_file() else {}
    cached = int(counts.get("inactive_file", 0))  # files read before, which make way for whatever needs the memory
    return int(limit.read_text()) - int(used.read_text()) + cached


def check(need, force=False):
    """Raise NotEnoughMemory, with the figures, if ``need`` is more than this machine can give, unless ``force``."""
    limit, whose = available()
    if limit and need.total > limit and not force:
        raise NotEnoughMemory(
            f"the pair needs {need}, and {whose} {limit / GB:.1f} GB. Take a smaller target or one in fewer bits "
            "(-4bit), quantize the drafter (drafter_bits=4, --drafter-bits 4), or load it all the same with force=True "
            "(--force); it may then swap, which is slower than any drafter can make up for"
            + (". On a CPU every number becomes a float32" if mx.default_device() == mx.cpu else "")
        )


def keep_resident():
    """On Metal, let macOS keep weights in memory rather than page them, as mlx-lm does while it generates."""
    if mx.metal.is_available() and mx.default_device() != mx.cpu:
        mx.set_wired_limit(mx.device_info()["max_recommended_working_set_size"])
