"""One training loop for the target, its adapters and every drafter: AdamW, warm-up and cosine, clipping, resuming."""

import json
import math
import time
from functools import partial
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_map, tree_unflatten
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SAVE_EVERY = 60  # seconds between two resumable checkpoints


def fit(models, loss_fn, batches, steps, learning_rate, folder, title, weight_decay=0.0):
    """Train ``models`` (name -> nn.Module) together on the same batches; returns name -> curve.

    ``loss_fn(name, model, *batch)`` -> scalar loss; ``batches(step)`` -> tuple of arrays of constant shapes, a function
    of the step alone, so that a resumed run sees what an unbroken one would have. A curve is a list of (step, loss),
    means over a hundredth of the run. The state is saved to ``folder`` every minute and removed at the end; a run that
    finds one goes on from it. On a GPU the arithmetic is bfloat16; master weights and optimiser are float32 always.
    """
    # Fused kernels are compiled one by one on first use: minutes on CUDA for a handful of drafters, for little gain,
    # and on a CPU only with a C++ compiler. One large model trained for long is worth it.
    fused = len(models) == 1 and mx.default_device() == mx.gpu
    trainers = {
        name: Trainer(model, partial(loss_fn, name), warm_up_and_cosine(steps, learning_rate), weight_decay, fused)
        for name, model in models.items()
    }
    progress_file = Path(folder, f"{title.replace(' ', '_')}.progress.json")
    start, curves = resume(trainers, progress_file) if progress_file.exists() else (0, {name: [] for name in models})
    window, sums, saved = max(1, steps // 100), dict.fromkeys(models, 0.0), time.monotonic()
    with progress_bar(title) as bar:
        task = bar.add_task(title, total=steps, completed=start, loss="")
        for step in range(start, steps):
            batch = batches(step)
            losses = {name: trainer.step(*batch) for name, trainer in trainers.items()}
            mx.eval(losses, [trainer.state for trainer in trainers.values()])
            for name, loss in losses.items():
                sums[name] += loss.item()
            if (step + 1) % window == 0:
                for name in models:
                    curves[name].append((step + 1, round(sums[name] / window, 5)))
                sums = dict.fromkeys(models, 0.0)
                bar.update(task, loss=" ".join(f"{name} {curve[-1][1]:.3f}" for name, curve in curves.items()))
                if time.monotonic() - saved > SAVE_EVERY:
                    save(trainers, progress_file, step + 1, curves)
                    saved = time.monotonic()
            bar.update(task, completed=step + 1)
    for leftover in Path(folder).glob(f"{progress_file.stem.split('.')[0]}.progress*"):
        leftover.unlink()
    return curves


def warm_up_and_cosine(steps, learning_rate):
    """A learning rate by step: up from 0 in 4 % of ``steps``, then down a cosine to a twentieth."""
    warm = max(1, steps * 4 // 100)
    return optim.join_schedules(
        [
            optim.linear_schedule(0.0, learning_rate, warm),
            optim.cosine_decay(learning_rate, max(1, steps - warm), learning_rate / 20),
        ],
        [warm],
    )


class Trainer:
    """A model, its optimiser and the step that moves both.

    ``learning_rate``: a number, which ``optimizer.learning_rate`` may change, or a schedule, step -> number;
    ``fused``: compiled into fewer, larger kernels.
    """

    def __init__(self, model, loss_fn, learning_rate, weight_decay, fused=False):
        self.model = model
        self.optimizer = optim.AdamW(learning_rate=learning_rate, betas=[0.9, 0.95], weight_decay=weight_decay)
        self.optimizer.init(model.trainable_parameters())
        self.state = [model.state, self.optimizer.state]
        gradient = nn.value_and_grad(model, partial(in_compute_type, model, loss_fn))

        def step(*batch):
            loss, gradients = gradient(*batch)
            gradients, _ = optim.clip_grad_norm(gradients, 1.0)
            self.optimizer.update(model, gradients)
            return loss

        self.step = mx.compile(step, inputs=self.state, outputs=self.state) if fused else step


def in_compute_type(model, loss_fn, *batch):
    """``loss_fn(model, *batch)`` with the model's parameters in the device's fast type; gradients stay float32."""
    if mx.default_device() == mx.cpu:
        return loss_fn(model, *batch)
    master = model.parameters()
    model.update(tree_map(lambda array: array.astype(mx.bfloat16), master))
    loss = loss_fn(model, *batch)
    model.update(master)
    return loss


def save(trainers, progress_file, step, curves):
    """Write every trainer's weights and optimiser, then the step: a broken write leaves the older step to resume."""
    for name, trainer in trainers.items():
        arrays = {f"model.{key}": value for key, value in tree_flatten(trainer.model.trainable_parameters())}
        arrays |= {f"optimizer.{key}": value for key, value in tree_flatten(trainer.optimizer.state)}
        partial_file = progress_file.with_suffix(f".{name}.tmp.safetensors")
        mx.save_safetensors(str(partial_file), arrays)
        partial_file.replace(progress_file.with_suffix(f".{name}.safetensors"))
    progress_file.write_text(json.dumps({"step": step, "curves": curves}))


def resume(trainers, progress_file):
    """Put back what ``save`` wrote; returns the step to go on from and the curves so far."""
    for name, trainer in trainers.items():
        arrays = mx.load(str(progress_file.with_suffix(f".{name}.safetensors")))
        for part, owner in (("model.", trainer.model), ("optimizer.", trainer.optimizer)):
            tree = tree_unflatten([(k.removeprefix(part), v) for k, v in arrays.items() if k.startswith(part)])
            owner.update(tree) if part == "model." else owner.state.update(tree)
        trainer.optimizer.init(trainer.model.trainable_parameters())  # puts back empty places: parts without weights
    progress = json.loads(progress_file.read_text())
    return progress["step"], progress["curves"]


def progress_bar(title):
    """A Rich bar with the step, the losses and the time left."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[loss]}"),
        refresh_per_second=2,
    )


def cross_entropy(logits, targets, weights):
    """Mean cross-entropy in nats of ``logits`` (..., vocab) at token ids ``targets`` (...), by ``weights`` (...)."""
    losses = nn.losses.cross_entropy(logits.astype(mx.float32), targets)
    return mx.sum(losses * weights) / mx.maximum(mx.sum(weights), 1e-6)


def perplexity(nats):
    """Perplexity a token of a mean cross-entropy in nats."""
    return math.exp(nats)
