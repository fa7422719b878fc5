"""Writing a pair as whole float32 checkpoints in the published formats, for other implementations to load."""

import json
import shutil
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten

from dspark_lab.checkpoint import dequantize, read_config
from dspark_lab.drafters import DFlash16

TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt")
TOKENIZER_FILES += ("chat_template*", "generation_config.json")


def export_pair(pair, out):
    """Write ``pair`` (from ``load_pair``) to the folder ``out``, which must be new or empty; returns it as a Path.

    ``out/target``: a Hugging Face model folder with tokenizer, adapters folded in. ``out/<mode>``: each drafter with
    weights. DeepSpec's formats get their own copies of the target's embedding and head; z-lab's borrows them. All is
    float32; loading the folders again gives the same pair. Raises ValueError if ``out`` holds something already.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists already and is not an empty folder; give a new one")
    source = pair.folders["target"]
    config = read_config(source)
    target = whole(pair.target.model)
    write(out / "target", target, config)
    for pattern in TOKENIZER_FILES:
        for file in source.glob(pattern):
            shutil.copy(file, out / "target")
    embedding = target["model.embed_tokens.weight"]
    own = {"embed_tokens.weight": embedding, "lm_head.weight": target.get("lm_head.weight", embedding)}
    for mode, folder in pair.folders.items():
        if mode != "target":
            drafter, config = pair.drafters[mode], read_config(folder)
            weights = whole(drafter)
            write(out / mode, weights if isinstance(drafter, DFlash16) else own | weights, config)
    return out


def whole(model):
    """The tensors of ``model``, by name, with those of its quantized layers dequantized."""
    quantized = {
        name: {"group_size": layer.group_size, "bits": layer.bits, "mode": layer.mode}
        for name, layer in model.named_modules()
        if "scales" in layer
    }
    return dequantize(dict(tree_flatten(model.parameters())), quantized)


def write(folder, weights, config):
    """A checkpoint folder of ``weights``, in float32, and ``config``, which no longer says that they are quantized."""
    folder.mkdir(parents=True)
    weights = {name: tensor.astype(mx.float32) for name, tensor in weights.items()}
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "pt"})
    config = {name: value for name, value in config.items() if name not in ("quantization", "quantization_config")}
    config |= {name: "float32" for name in ("dtype", "torch_dtype") if name in config}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
