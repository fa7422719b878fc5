"""How much of a draft the target accepts: in rollouts, and teacher-forced at every position of the target's own text.

Intervals are over prompts, for the rounds of one text are not independent. Of each prompt only sums are kept, tokens
and rounds or overlaps and counts, and from them every estimate follows: ratios of sums, bootstrapped (`over_prompts`).
"""

from dataclasses import asdict

import mlx.core as mx
import numpy as np

from dspark_lab import metrics
from dspark_lab.bench.prompts import heldout_chats
from dspark_lab.bench.record import over_prompts
from dspark_lab.generate import stream

FALL = (1, 4)  # suffix decay is told by how far the overlap falls between these positions


def rollouts(pair, mode, prompts, temperature, max_tokens, advance=lambda: None):
    """Answer ``prompts`` with whole blocks; a cell with the accepted length and what became of every position.

    ``tallies``: tokens and rounds, a prompt each. ``advance()`` hears of every prompt answered.
    """
    rounds, tallies = [], []
    for seed, prompt in enumerate(prompts):
        own = list(stream(pair, prompt, mode, temperature=temperature, max_tokens=max_tokens, seed=seed))
        tallies.append((sum(r.accepted_length for r in own), len(own)))
        rounds += own
        advance()
    return {
        "rounds": len(rounds),
        "tokens": sum(tokens for tokens, _ in tallies),
        "accepted_length": over_prompts(accepted_length, tallies),
        "conditional_acceptance": [asdict(rate) for rate in metrics.conditional_acceptance(rounds)],
        "survival": [asdict(rate) for rate in metrics.survival(rounds)],
        "tallies": tallies,
    }


def accepted_length(sums):
    """Tokens over rounds, of sums (..., 2)."""
    return sums[..., 0] / sums[..., 1]


def gain(a, b):
    """The accepted length of one rollouts cell over that of another on the same prompts, paired by prompt."""
    return over_prompts(lambda a, b: accepted_length(a) / accepted_length(b), a["tallies"], b["tallies"])


def target_texts(pair, prompts, max_tokens, advance=lambda: None):
    """The target's own answers at temperature 1: (token ids of prompt and answer, prompt length) pairs."""
    texts = []
    for seed, prompt in enumerate(prompts):
        answer = stream(pair, prompt, "baseline", temperature=1.0, max_tokens=max_tokens, seed=seed)
        texts.append((prompt + [token for r in answer for token in r.committed], len(prompt)))
        advance()
    return texts


def overlaps(target, drafter, texts, advance=lambda: None):
    """Teacher-forced sum(min(p, q)) at temperature 1 by position, from every anchor of ``texts``: a cell.

    ``tables``: a prompt each, the sums by position and how many overlaps they are of.
    """
    tables = []
    for tokens, prompt_length in texts:
        tables.append(text_overlaps(target, drafter, tokens, prompt_length))
        advance()
    return {
        "overlap": over_prompts(mean_overlap, tables),
        "counts": np.sum(tables, axis=0)[1].astype(int).tolist(),
        "tables": np.round(tables, 4).tolist(),
    }


def text_overlaps(target, drafter, tokens, prompt_length):
    """Sums of overlaps and their counts, (2, γ), with a block drafted at every token before an answer's.

    Each position is given the text's true tokens before it, and predicts a token that is still inside the answer.
    """
    from dspark_lab.train.drafters import drafter_loss, teach
    from dspark_lab.train.losses import DSPARK

    ids, anchors = mx.array([tokens]), mx.arange(prompt_length - 1, len(tokens) - 1)[None]
    logits, hidden = teach(target, drafter.taps, ids)
    # Only the overlaps are used; they do not depend on the weights of the loss.
    _, overlap, valid = drafter_loss(DSPARK, drafter, logits, hidden, ids, anchors, mx.array([len(tokens)]))
    return np.array(mx.stack([mx.sum(overlap * valid, axis=0), mx.sum(valid, axis=0).astype(mx.float32)]), float)


def mean_overlap(sums):
    """The mean overlap (..., γ), of sums (..., 2, γ)."""
    return sums[..., 0, :] / sums[..., 1, :]


def fall(cell):
    """How far the overlap of an overlaps cell falls from position 1 to 4, or None for shorter blocks."""
    first, last = FALL
    if len(cell["counts"]) < last:
        return None
    return over_prompts(lambda s: mean_overlap(s)[..., first - 1] - mean_overlap(s)[..., last - 1], cell["tables"])


def lead(a, b):
    """By how much the overlap of one cell is above that of another, by position, paired by prompt."""
    positions = min(len(a["counts"]), len(b["counts"]))
    return over_prompts(
        lambda a, b: mean_overlap(a) - mean_overlap(b),
        *(np.asarray(cell["tables"])[..., :positions] for cell in (a, b)),
    )


def comparisons(cells, a="dspark", b="dflash"):
    """What follows from ``cells`` (name -> cell): ``a`` over ``b`` in accepted length, falls, and ``a``'s leads."""
    found = {}
    for name, cell in cells.items():
        kind, *rest = name.split("/")
        if kind not in ("rollouts", "overlaps"):
            continue
        domain, *rest = rest
        other = "/".join(b if part == a else part for part in name.split("/"))
        paired = a in rest and other in cells
        if kind == "rollouts" and paired:
            found[f"gain/{domain}/{rest[1]}"] = gain(cell, cells[other])
        if kind == "overlaps" and paired:
            found[f"lead/{domain}"] = lead(cell, cells[other])
        if kind == "overlaps" and (drop := fall(cell)):
            found[f"fall/{domain}/{rest[0]}"] = drop
    return found


def target_loss(pair, domain, answers, folder, advance=lambda: None):
    """Held-out bits per byte and perplexity a token of the target on at most ``answers`` true answers: a cell."""
    from dspark_lab.train.target import answer_loss, bits_per_byte

    table = []
    for ids, prompt_length, n_bytes in heldout_chats(domain, answers, folder):
        table.append((*answer_loss(pair.target.model, [(ids, prompt_length)], len(ids)), n_bytes))
        advance()
    return {
        "bits_per_byte": over_prompts(lambda sums: bits_per_byte(sums[..., 0], sums[..., 2]), table),
        "perplexity": over_prompts(lambda sums: np.exp(sums[..., 0] / sums[..., 1]), table),
        "answers": len(table),
        "tokens": sum(tokens for _, tokens, _ in table),
    }
