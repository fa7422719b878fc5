"""The recipe of the lab pair, stage by stage: corpus, base, instruct, responses, drafters, confidence, a small model.

Every stage writes into one folder and is skipped when its product is there, so that an interrupted run goes on where it
stopped. ``LAB`` is what ships with the package; ``TINY`` runs the same stages in about two minutes on two cores and is
good for nothing but seeing them run.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.utils import dequantize_model, load_model

from dspark_lab.train import corpus, tokenizer
from dspark_lab.train.drafter_stages import make_drafters, sharpen_confidence
from dspark_lab.train.folders import (
    QUANTIZATION,
    group_size,
    instruct_model,
    responses,
    save_folder,
    special_ids,
    split_chats,
    write_curves,
)
from dspark_lab.train.loop import progress_bar
from dspark_lab.train.respond import respond
from dspark_lab.train.target import (
    LORA,
    answer_loss,
    bits_per_byte,
    finetune,
    learn_answers,
    new_model,
    pretrain,
)

SHIPPED = ("dspark", "dflash", "dflash16", "eagle3")
ABLATIONS = ("no_markov", "gated", "rnn")


@dataclass(frozen=True)
class Recipe:
    """Sizes and lengths of every stage. ``length`` is in tokens; drafters see texts of at most ``chat_length``."""

    hidden_size: int = 384
    layers: int = 10
    heads: int = 6
    kv_heads: int = 2
    head_dim: int = 64
    intermediate_size: int = 1152
    context: int = 1024
    taps: tuple = (0, 2, 4, 6, 8)
    draft_intermediate_size: int = 640
    markov_rank: int = 64
    pretrain_epochs: float = 5
    pretrain_batch: int = 64
    length: int = 512
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.5
    finetune_epochs: float = 1
    finetune_batch: int = 64
    finetune_learning_rate: float = 1e-3
    chat_length: int = 320
    response_tokens: int = 224
    responses: int = 122_880
    greedy_share: float = 0.25
    drafter_steps: int = 6600
    drafter_batch: int = 64
    eagle3_batch: int = 16
    anchors: int = 32
    drafter_learning_rate: float = 1.5e-3
    confidence_steps: int = 4500
    confidence_learning_rate: float = 4e-4
    small_hidden_size: int = 128
    small_layers: int = 3
    small_epochs: float = 3
    problems: int = 20_000
    seed: int = 0


LAB = Recipe()
TINY = Recipe(
    hidden_size=64, layers=6, heads=2, kv_heads=1, head_dim=32, intermediate_size=128, taps=(0, 1, 2, 3, 4),
    draft_intermediate_size=64, markov_rank=16, pretrain_epochs=0.25, pretrain_batch=8, length=128, finetune_epochs=0.5,
    finetune_batch=8, chat_length=192, response_tokens=32, responses=64, drafter_steps=12, drafter_batch=4,
    eagle3_batch=2, anchors=4, confidence_steps=4, problems=200, small_hidden_size=32, small_layers=1,
)  # fmt: skip


def train_lab(out, tiny=False, text_dir=None, drafters=SHIPPED):
    """Run every stage whose product is not in ``out`` yet; returns the folder, which ``load_pair`` loads."""
    out, recipe = Path(out), TINY if tiny else LAB
    out.mkdir(parents=True, exist_ok=True)
    make_corpus(out, recipe, tiny, text_dir)
    make_base(out, recipe)
    make_instruct(out, recipe)
    make_responses(out, recipe)
    make_drafters(out, recipe, drafters)
    sharpen_confidence(out, recipe)
    make_small(out, recipe)
    return out


def make_corpus(out, recipe, tiny=False, text_dir=None):
    """Stage 1: gather the text, train the tokenizer, encode everything into ``work/``."""
    work = out / "work"
    if (work / "chats.npz").exists():
        return
    cache = None if tiny else work / "sources"
    documents = corpus.documents(cache, text_dir=text_dir, tiny=tiny, seed=recipe.seed)
    chats = corpus.chats(documents, None if text_dir else cache, train_problems=recipe.problems, seed=recipe.seed)
    bpe = tokenizer.train_tokenizer(documents, seed=recipe.seed)
    tokenizer.save_tokenizer(bpe, work / "tokenizer", recipe.context)
    np.savez(work / "pretrain.npz", **tokenizer.pack_all(documents, bpe, recipe.context, recipe.seed))
    np.savez(work / "chats.npz", **tokenizer.encode_chats(chats, bpe, recipe.chat_length))


def make_base(out, recipe):
    """Stage 2: pretrain on plain text; saved in 8 bits as an mlx-lm model folder, ``base/``."""
    if (out / "base" / "config.json").exists():
        return
    config = target_config(recipe, special_ids(out))
    model = new_model(config, recipe.seed)
    stream = np.load(out / "work" / "pretrain.npz")["train"]
    curve = pretrain(model, stream, recipe.pretrain_epochs, recipe.pretrain_batch, recipe.length,
                     recipe.learning_rate, recipe.weight_decay, out / "work", recipe.seed)  # fmt: skip
    write_curves(out, {"base": curve})
    nn.quantize(model, **QUANTIZATION)
    save_folder(out / "base", model, {**config, "quantization": QUANTIZATION}, out / "work" / "tokenizer")


def target_config(recipe, ids):
    """The config.json of the lab target; ``ids``: what ``special_ids`` gives."""
    return {
        "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "vocab_size": ids["vocab_size"],
        "hidden_size": recipe.hidden_size, "num_hidden_layers": recipe.layers,
        "intermediate_size": recipe.intermediate_size, "num_attention_heads": recipe.heads,
        "num_key_value_heads": recipe.kv_heads, "head_dim": recipe.head_dim, "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0, "max_position_embeddings": recipe.context, "tie_word_embeddings": True,
        "bos_token_id": None, "eos_token_id": ids["end"], "pad_token_id": ids["pad"], "hidden_act": "silu",
        "attention_bias": False, "torch_dtype": "float32",
    }  # fmt: skip


def make_instruct(out, recipe):
    """Stage 3: LoRA adapters on the 8-bit base, dequantized, that answer chats; ``instruct/``, bfloat16."""
    if (out / "instruct" / "adapters.safetensors").exists():
        return
    model, _ = load_model(out / "base")
    model = dequantize_model(model)
    model.set_dtype(mx.float32)
    curve = finetune(model, split_chats(out, heldout=False), recipe.finetune_epochs, recipe.finetune_batch,
                     recipe.chat_length, recipe.finetune_learning_rate, out / "work", recipe.seed)  # fmt: skip
    write_curves(out, {"instruct": curve})
    (out / "instruct").mkdir(exist_ok=True)
    weights = {name: array.astype(mx.bfloat16) for name, array in tree_flatten(model.trainable_parameters())}
    mx.save_safetensors(str(out / "instruct" / "adapters.safetensors"), weights)
    settings = {"fine_tune_type": "lora", "num_layers": recipe.layers, "lora_parameters": LORA}
    (out / "instruct" / "adapter_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def evaluate_instruct(out, recipe):
    """Held-out bits per byte and perplexity a token of the instruct model's answers, by domain."""
    model, _ = instruct_model(out)
    data, report = dict(np.load(out / "work" / "chats.npz")), {}
    for index, domain in enumerate(corpus.DOMAINS):
        rows = np.flatnonzero(data["heldout"] & (data["domains"] == index))
        if not len(rows):  # a tiny corpus may hold out nothing of a domain
            continue
        nats, tokens = answer_loss(model, split_chats(out, True, index), recipe.chat_length)
        report[domain] = {
            "bits_per_byte": bits_per_byte(nats, int(data["response_bytes"][rows].sum())),
            "perplexity": math.exp(nats / tokens),
            "answers": len(rows),
            "tokens": tokens,
        }
    return report


def make_responses(out, recipe):
    """Stage 4: the instruct model answers train prompts, some greedily; ``work/responses.npz``."""
    if (out / "work" / "responses.npz").exists():
        return
    model, _ = instruct_model(out)
    if mx.default_device() == mx.gpu:
        model.set_dtype(mx.bfloat16)
    chats, stop = split_chats(out, heldout=False), special_ids(out)["end"]
    rng = np.random.default_rng(recipe.seed)
    rounds = -(-recipe.responses // len(chats))  # every prompt once before any is asked again
    rows = np.concatenate([rng.permutation(len(chats)) for _ in range(rounds)])[: recipe.responses]
    prompts = [chats[row][0][: chats[row][1]].tolist() for row in rows]
    greedy = int(len(prompts) * recipe.greedy_share)
    answers = []
    with progress_bar("responses") as bar:
        task = bar.add_task("responses", total=len(prompts), loss="")
        for part, temperature in ((prompts[:greedy], 0.0), (prompts[greedy:], 1.0)):
            answers += respond(model, part, recipe.response_tokens, stop, temperature, mx.random.key(recipe.seed),
                               batch_size=1024, advance=lambda n: bar.advance(task, n))  # fmt: skip
    texts = [np.array(prompt + answer, np.uint16) for prompt, answer in zip(prompts, answers)]
    np.savez(out / "work" / "responses.npz", tokens=np.concatenate(texts),
             offsets=np.cumsum([0, *map(len, texts)]), prompt_lengths=[len(p) for p in prompts])  # fmt: skip


def make_small(out, recipe):
    """Stage 7: a small language model trained on the target's answers; ``small/``, an mlx-lm folder in 8 bits.

    It is no drafter of ours: mlx-lm's own speculative decoding needs a whole model to draft with.
    """
    if (out / "small" / "config.json").exists():
        return
    width = recipe.small_hidden_size
    shape = {"hidden_size": width, "num_hidden_layers": recipe.small_layers, "intermediate_size": 3 * width,
             "num_attention_heads": width // 32, "num_key_value_heads": width // 32, "head_dim": 32}  # fmt: skip
    config = {**target_config(recipe, special_ids(out)), **shape}
    model = new_model(config, recipe.seed)
    curve = learn_answers("small", model, responses(out), recipe.small_epochs, recipe.finetune_batch,
                          recipe.chat_length, recipe.learning_rate, out / "work", recipe.seed)  # fmt: skip
    write_curves(out, {"small": curve})
    quantization = {**QUANTIZATION, "group_size": group_size(width)}
    nn.quantize(model, **quantization)
    save_folder(out / "small", model, {**config, "quantization": quantization}, out / "work" / "tokenizer")
