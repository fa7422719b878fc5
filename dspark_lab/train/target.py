"""Training the lab target: pretraining on plain text, then chats through LoRA adapters; and its bits per byte."""

import math
from functools import lru_cache

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_map_with_path
from mlx_lm.models import qwen3
from mlx_lm.tuner.utils import linear_to_lora_layers

from dspark_lab.train.loop import cross_entropy, fit

LORA = {"rank": 16, "scale": 4.0, "dropout": 0.0}


def new_model(config, seed):
    """A Qwen3 model of mlx-lm's own code with fresh weights: N(0, 0.02), residual outputs scaled down by depth."""
    model = qwen3.Model(qwen3.ModelArgs.from_dict(config))
    depth_scale = 1 / math.sqrt(2 * config["num_hidden_layers"])
    key = mx.random.key(seed)

    def fresh(name, array):
        nonlocal key
        if array.ndim < 2:
            return array
        key, subkey = mx.random.split(key)
        std = 0.02 * (depth_scale if name.endswith(("o_proj.weight", "down_proj.weight")) else 1.0)
        return std * mx.random.normal(array.shape, key=subkey)

    model.update(tree_map_with_path(fresh, model.parameters()))
    mx.eval(model.parameters())
    return model


def pretrain(model, stream, epochs, batch_size, length, learning_rate, weight_decay, folder, seed):
    """Next-token training on ``stream``, a long array of token ids; every epoch cuts it at other places."""
    per_epoch = (len(stream) - 1) // length - 1
    steps = max(1, int(epochs * per_epoch // batch_size))

    @lru_cache(maxsize=2)
    def starts(epoch):
        rng = np.random.default_rng((seed, epoch))
        return rng.integers(length) + rng.permutation(per_epoch) * length

    def batches(step):
        pieces = [divmod(i, per_epoch) for i in range(step * batch_size, (step + 1) * batch_size)]
        rows = [stream[(start := starts(epoch)[index]) : start + length + 1] for epoch, index in pieces]
        return (mx.array(np.stack(rows).astype(np.int32)),)

    def loss(_, model, rows):
        return cross_entropy(model(rows[:, :-1]), rows[:, 1:], mx.ones(rows[:, 1:].shape))

    return fit({"base": model}, loss, batches, steps, learning_rate, folder, "pretraining", weight_decay)["base"]


def pad_chats(chats, length):
    """Chats as arrays: tokens (n, length), right-padded with 0 or cut, prompt lengths and whole lengths (n,)."""
    tokens = np.zeros((len(chats), length), np.int32)
    ends = np.array([min(length, len(ids)) for ids, _ in chats], np.int32)
    for row, (ids, _) in enumerate(chats):
        tokens[row, : ends[row]] = ids[:length]
    return tokens, np.array([min(start, length) for _, start in chats], np.int32), ends


def finetune(model, chats, epochs, batch_size, length, learning_rate, folder, seed):
    """Train LoRA adapters on every projection of ``model`` to answer ``chats``, (ids, prompt length) pairs."""
    mx.random.seed(seed)  # mlx-lm's LoRALinear draws its initial A from MLX's global state
    model.freeze()
    linear_to_lora_layers(model, len(model.layers), LORA)
    return learn_answers("instruct", model, chats, epochs, batch_size, length, learning_rate, folder, seed)


def learn_answers(name, model, chats, epochs, batch_size, length, learning_rate, folder, seed):
    """Train what ``model`` has left trainable on the answers of ``chats``; returns the loss curve."""
    tokens, starts, ends = pad_chats(chats, length)
    steps = max(1, int(epochs * len(chats) // batch_size))

    def batches(step):
        rows = np.random.default_rng((seed, step)).integers(len(chats), size=batch_size)
        return tuple(mx.array(array[rows]) for array in (tokens, starts, ends))

    def loss(_, model, tokens, starts, ends):
        places = mx.arange(1, tokens.shape[1])
        answer = (places >= starts[:, None]) & (places < ends[:, None])
        return cross_entropy(model(tokens[:, :-1]), tokens[:, 1:], answer)

    return fit({name: model}, loss, batches, steps, learning_rate, folder, f"answers of {name}")[name]


def answer_loss(model, chats, length, batch_size=16):
    """Summed cross-entropy in nats of the answers of ``chats``, and how many tokens they are."""
    tokens, starts, ends = pad_chats(chats, length)
    total, count = 0.0, 0
    for at in range(0, len(chats), batch_size):
        rows, start, end = (mx.array(a[at : at + batch_size]) for a in (tokens, starts, ends))
        losses = nn.losses.cross_entropy(model(rows[:, :-1]).astype(mx.float32), rows[:, 1:])
        places = mx.arange(1, rows.shape[1])
        answer = (places >= start[:, None]) & (places < end[:, None])
        total += mx.sum(losses * answer).item()
        count += int(mx.sum(answer).item())
    return total, count


def bits_per_byte(nats, n_bytes):
    """A summed cross-entropy in nats as bits per byte of text."""
    return nats / math.log(2) / n_bytes
