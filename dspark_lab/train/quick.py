"""A drafter trained by the clock, in a minute or five, on what the target answers here and now.

The target is frozen, so what it says to a text never changes: it is asked once, and kept. After that a step costs no
more than the drafter's own share of it. Steps, losses and optimiser are those of the real recipe (`drafters.py`).
"""

import json
import time
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from dspark_lab.bench.acceptance import mean_overlap
from dspark_lab.generate import encode_prompt
from dspark_lab.train.drafters import drafter_config, drafter_loss, teach
from dspark_lab.train.lab import LAB
from dspark_lab.train.loop import Trainer, warm_up_and_cosine
from dspark_lab.train.losses import DSPARK
from dspark_lab.train.problems import problems
from dspark_lab.train.respond import respond
from dspark_lab.train.target import pad_chats

BATCH, ANCHORS = 4, 8  # texts a step, and blocks in each: many small steps do more in a minute than few large ones
LEARNING_RATE, WEIGHT_DECAY = 4e-3, 0.01
FINE = 10_000  # parts into which a run's share of its time is divided, for the learning rate
AT_ONCE = 16  # texts a pass of the target


@dataclass(frozen=True)
class Lessons:
    """Texts of the target's own and what it computed on them: all that a drafter learns from.

    ``tokens`` (n, L), padded on the right; ``starts`` and ``ends`` (n,): where the answers begin and the texts end;
    ``logits`` (n, L, vocab) and ``hidden`` (n, L, taps * d): the target's, float32.
    """

    tokens: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    logits: mx.array
    hidden: mx.array

    def batch(self, rows, anchors):
        """The texts ``rows`` (B,) with blocks at ``anchors`` (B, A), as `drafter_loss` takes them."""
        at, tokens, ends = (mx.array(array) for array in (rows, self.tokens[rows], self.ends[rows]))
        return self.logits[at], self.hidden[at], tokens, mx.array(anchors), ends

    def draw(self, rng, batch=BATCH, anchors=ANCHORS):
        """A random batch: ``batch`` texts and, in each, ``anchors`` places that an answer's token follows."""
        rows = rng.integers(len(self.tokens), size=batch)
        low, high = self.starts[rows, None] - 1, self.ends[rows, None] - 1
        return self.batch(rows, low + (rng.random((batch, anchors)) * (high - low)).astype(np.int64))


def thin_config(pair):
    """The config.json of a DSpark drafter for the lab ``pair``'s target, of one layer: half the shipped one's depth."""
    base = json.loads((pair.folders["target"] / "config.json").read_text())
    config = drafter_config("dspark", base, LAB, pair.tokenizer.mask_token_id)
    return {**config, "num_hidden_layers": 1, "layer_types": ["full_attention"]}


def ask(pair, count, seed, heldout=False):
    """``count`` generated word problems as prompts (lists of token ids), of the train or the held-out templates."""
    return [encode_prompt(pair, worked.problem) for worked in problems(count, seed, heldout)]


def make_lessons(pair, taps, prompts, max_tokens, temperature=1.0, seed=0):
    """Let the target of ``pair`` answer ``prompts`` (lists of token ids), in at most ``max_tokens`` each; Lessons."""
    (stop,) = pair.stop_tokens
    answers = respond(pair.target.model, prompts, max_tokens, stop, temperature, mx.random.key(seed), len(prompts))
    texts = [(prompt + answer, len(prompt)) for prompt, answer in zip(prompts, answers)]
    tokens, starts, ends = pad_chats(texts, max(len(ids) for ids, _ in texts))
    parts = [teach(pair.target, taps, mx.array(tokens[i : i + AT_ONCE])) for i in range(0, len(tokens), AT_ONCE)]
    logits, hidden = (mx.concatenate(part) for part in zip(*parts))
    mx.eval(logits, hidden)
    return Lessons(tokens, starts, ends, logits, hidden)


def train(drafter, lessons, weights=DSPARK, *, seconds=None, steps=None, seed=0):
    """Train ``drafter`` for so many ``seconds`` or ``steps``; an iterator that takes a step each time it is asked.

    Gives (seconds so far, the step's loss). The clock runs in steps alone, so that looking on costs nothing of it. The
    learning rate rises and falls as in `loop.fit`, by the share of time or steps that has gone. The same ``seed`` draws
    the same batches. Raises ValueError at the first step unless one of ``seconds`` and ``steps`` is given, above 0.
    """
    if (seconds is None) == (steps is None) or not (seconds or steps or 0) > 0:
        raise ValueError(f"seconds is {seconds} and steps is {steps}; give one of them, above 0")
    trainer = Trainer(drafter, lambda model, *batch: drafter_loss(weights, model, *batch)[0], 0.0, WEIGHT_DECAY)
    rate, rng = warm_up_and_cosine(FINE, LEARNING_RATE), np.random.default_rng(seed)
    spent, step = 0.0, 0
    while (share := spent / seconds if seconds else step / steps) < 1:
        began = time.perf_counter()
        trainer.optimizer.learning_rate = rate(mx.array(int(share * FINE)))
        loss = trainer.step(*lessons.draw(rng))
        mx.eval(loss, trainer.state)
        spent, step = spent + time.perf_counter() - began, step + 1
        yield spent, loss.item()


def climb(drafter, lessons, unseen, seconds, looks=12):
    """`train` by the clock, with looks at how it does on ``unseen`` Lessons: one before and ``looks`` evenly on.

    An iterator of (seconds so far, steps so far, mean overlaps by position (γ,)).
    """
    yield 0.0, 0, mean_overlaps(drafter, unseen)
    due = 1
    for step, (spent, _) in enumerate(train(drafter, lessons, seconds=seconds), 1):
        if spent >= due * seconds / looks:
            yield spent, step, mean_overlaps(drafter, unseen)
            due = int(spent * looks / seconds) + 1


def overlap_table(drafter, lessons, anchors=8):
    """Sums of the overlaps sum(min(p, q)) by position and their counts, (n, 2, γ): a text each.

    In every text ``anchors`` blocks are drafted, evenly spaced over the answer, each position given the true tokens.
    """
    tables = []
    for at in range(0, len(lessons.tokens), AT_ONCE):
        rows = np.arange(at, min(at + AT_ONCE, len(lessons.tokens)))
        low, high = lessons.starts[rows, None] - 1, lessons.ends[rows, None] - 2
        places = (low + np.linspace(0, 1, anchors) * (high - low)).astype(np.int64)
        _, overlap, valid = drafter_loss(DSPARK, drafter, *lessons.batch(rows, places))
        sums = mx.stack([overlap * valid, valid.astype(mx.float32)], axis=1)  # (B * A, 2, γ)
        tables.append(np.array(mx.sum(sums.reshape(len(rows), anchors, 2, -1), axis=1), float))
    return np.concatenate(tables)


def mean_overlaps(drafter, lessons):
    """The mean overlap by position (γ,), of `overlap_table`."""
    return mean_overlap(overlap_table(drafter, lessons).sum(axis=0))
