"""The recipe's folders: what a stage writes and the next one reads."""

import json
import shutil

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.utils import save_config

from dspark_lab.pair import load_target
from dspark_lab.train import tokenizer

QUANTIZATION = {"group_size": 64, "bits": 8}
GROUP_SIZES = (128, 64, 32)  # all that MLX quantizes by
SHARD_BYTES = 15_000_000  # no file of the lab pair is larger


def save_drafter(folder, drafter, config):
    """Write ``drafter`` to ``folder``: its matrices in 8 bits by the largest group they allow, the rest in float16."""
    usual, exceptions = {**QUANTIZATION, "group_size": GROUP_SIZES[0]}, {}

    def grouping(name, module):
        """How to quantize ``module``, or False; noted in ``exceptions``, for config.json names the unusual layers."""
        size = group_size(module.weight.shape[-1]) if hasattr(module, "to_quantized") else None
        if size and size != usual["group_size"]:
            exceptions[name] = {**usual, "group_size": size}
        return {**usual, "group_size": size} if size else False

    drafter.set_dtype(mx.float16)
    nn.quantize(drafter, class_predicate=grouping)
    folder.mkdir(parents=True, exist_ok=True)
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(drafter.parameters())))
    save_config({**config, "quantization": {**usual, **exceptions}}, folder / "config.json")


def group_size(width):
    """The largest group MLX quantizes by that divides rows of ``width``, or None: larger groups store fewer scales."""
    return next((size for size in GROUP_SIZES if width % size == 0), None)


def save_folder(folder, model, config, tokenizer_folder):
    """Write an mlx-lm model folder: weights, config and tokenizer, no file above 15 MB."""
    folder.mkdir(parents=True, exist_ok=True)
    save_sharded(folder, dict(tree_flatten(model.parameters())))
    for file in tokenizer_folder.iterdir():
        shutil.copy(file, folder)
    save_config(config, folder / "config.json")


def save_sharded(folder, weights):
    """Write ``weights`` as model-00001-of-0000N.safetensors and their index, as mlx-lm reads them."""
    shards, room = [], 0
    for name, array in weights.items():
        if array.nbytes > room:
            shards.append({})
            room = SHARD_BYTES
        shards[-1][name] = array
        room -= array.nbytes
    files = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    for file, shard in zip(files, shards):
        mx.save_safetensors(str(folder / file), shard, metadata={"format": "mlx"})
    index = {name: file for file, shard in zip(files, shards) for name in shard}
    metadata = {"total_size": sum(array.nbytes for array in weights.values())}
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": metadata, "weight_map": index}, indent=1) + "\n"
    )


def special_ids(out):
    """The ids the recipe needs to know: where a turn ends, padding, the mask, and how many tokens there are."""
    bpe = tokenizer.load_tokenizer(out / "work" / "tokenizer")
    return {"end": bpe.token_to_id(tokenizer.END), "pad": bpe.token_to_id(tokenizer.PAD),
            "mask": bpe.token_to_id(tokenizer.MASK), "vocab_size": bpe.get_vocab_size()}  # fmt: skip


def instruct_model(out):
    """The instruct model of ``out`` in float32 as it ships, the adapters folded into the 8-bit base; and its config."""
    target, config = load_target(out / "base", out / "instruct")
    target.model.freeze()
    return target.model, {key: value for key, value in config.items() if "quantization" not in key}


def split_chats(out, heldout, domain=None):
    """The (ids, prompt length) pairs of the train or held-out chats, of one domain (an index) or all."""
    data = dict(np.load(out / "work" / "chats.npz"))
    rows = np.flatnonzero(data["heldout"] == heldout)
    return [(data["tokens"][data["offsets"][i] : data["offsets"][i + 1]], data["prompt_lengths"][i])
            for i in rows if domain is None or data["domains"][i] == domain]  # fmt: skip


def responses(out):
    """The (ids, prompt length) pairs of what stage 4 wrote."""
    data = dict(np.load(out / "work" / "responses.npz"))
    return [(data["tokens"][start:end], prompt)
            for start, end, prompt in zip(data["offsets"], data["offsets"][1:], data["prompt_lengths"])]  # fmt: skip


def write_curves(out, curves):
    """Add loss curves, name -> [(step, loss)], to ``curves.json``."""
    (out / "curves.json").write_text(json.dumps({**read_curves(out), **curves}, indent=1) + "\n")


def read_curves(out):
    """The loss curves in ``curves.json``, name -> [(step, loss)]; none before the first stage that trains."""
    path = out / "curves.json"
    return json.loads(path.read_text()) if path.exists() else {}
