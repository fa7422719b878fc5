"""The stages of the recipe that make drafters: all from the same batches, then DSpark's confidence."""

from dataclasses import replace

import mlx.core as mx
import numpy as np

from dspark_lab.checkpoint import dequantize, load_weights, read_config, read_weights
from dspark_lab.target import Target
from dspark_lab.train import losses
from dspark_lab.train.drafters import drafter_config, drafter_loss, new_drafter, teach
from dspark_lab.train.folders import instruct_model, read_curves, responses, save_drafter, special_ids, write_curves
from dspark_lab.train.loop import fit
from dspark_lab.train.target import pad_chats

LOSSES = {
    "confidence": losses.CONFIDENCE,
    "dflash": losses.DFLASH,
    "dflash16": losses.DFLASH16,
    "no_markov": losses.NO_MARKOV,
}  # the others learn by DSpark's


def make_drafters(out, recipe, names):
    """Stage 5: train the drafters ``names`` together on the same batches; a folder each, in 8 bits."""
    names = [name for name in names if not (out / name / "config.json").exists()]
    if not names:
        return
    target, lender, config = teachers(out)
    configs = {name: drafter_config(name, config, recipe, special_ids(out)["mask"]) for name in names}
    drafters = {name: new_drafter(configs[name], lender, recipe.seed) for name in names}
    curves = fit_drafters(drafters, target, responses(out), recipe, out / "work")
    write_curves(out, curves)
    for name, drafter in drafters.items():
        drafter.set_dtype(mx.float32)
        save_drafter(out / name, drafter, configs[name])


def teachers(out):
    """The instruct model as two Targets, one to teach, one to lend embedding and head to drafters; and its config.

    The one that teaches is in float32, the lender in the device's fast type.
    """
    model, config = instruct_model(out)
    target, lender = Target(model, config), Target(model, config)
    if mx.default_device() == mx.gpu:
        fast, _ = instruct_model(out)
        fast.set_dtype(mx.bfloat16)
        lender = Target(fast, config)
    return target, lender, config


def sharpen_confidence(out, recipe):
    """Stage 6: DSpark learns on, its confidence weighted six times as much; ``dspark/`` is replaced.

    So weighted from the start, the confidence costs acceptance; at the end, in small steps, hardly any. It starts from
    the weights as stage 5 stored them.
    """
    folder = out / "dspark"
    if not (folder / "config.json").exists() or "confidence" in read_curves(out):
        return
    target, lender, config = teachers(out)
    config = drafter_config("dspark", config, recipe, special_ids(out)["mask"])
    drafter = new_drafter(config, lender, recipe.seed)
    stored = dequantize(read_weights(folder), read_config(folder)["quantization"])
    load_weights(drafter, stored, folder, mx.float32)
    further = replace(recipe, drafter_steps=recipe.confidence_steps, seed=recipe.seed + 1,
                      drafter_learning_rate=recipe.confidence_learning_rate)  # fmt: skip
    curves = fit_drafters({"confidence": drafter}, target, responses(out), further, out / "work")
    save_drafter(folder, drafter, config)
    write_curves(out, curves)


def fit_drafters(drafters, target, texts, recipe, folder):
    """Train ``drafters`` (name -> drafter) on ``texts``, (ids, prompt length) pairs; returns name -> curve."""
    tokens, starts, ends = pad_chats(texts, recipe.chat_length)
    usable = np.flatnonzero(ends - starts >= 2)
    tokens, starts, ends = tokens[usable], starts[usable], ends[usable]

    def batches(step):
        rng = np.random.default_rng((recipe.seed, step))
        rows = rng.integers(len(tokens), size=recipe.drafter_batch)
        low, high = starts[rows, None] - 1, ends[rows, None] - 1  # an anchor has at least one token after it
        anchors = low + (rng.random((recipe.drafter_batch, recipe.anchors)) * (high - low)).astype(np.int64)
        ids = mx.array(tokens[rows])
        logits, hidden = teach(target, recipe.taps, ids)
        return logits, hidden, ids, mx.array(anchors), mx.array(ends[rows])

    def loss(name, drafter, *batch):
        if name == "eagle3":  # seven passes over every row: a smaller batch keeps its share of the time
            batch = [array[: recipe.eagle3_batch] for array in batch]
        logits, hidden, ids, anchors, ends = batch
        if name == "dflash16":  # blocks of twice the length: half as many
            anchors = anchors[:, ::2]
        return drafter_loss(LOSSES.get(name, losses.DSPARK), drafter, logits, hidden, ids, anchors, ends)[0]

    return fit(drafters, loss, batches, recipe.drafter_steps, recipe.drafter_learning_rate, folder,
               "drafters " + " ".join(drafters), weight_decay=0.01)  # fmt: skip
