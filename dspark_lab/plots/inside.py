"""What goes on inside: attention patterns, caches entry by entry, the Markov bias."""

from dataclasses import dataclass

import numpy as np

from dspark_lab.plots.rounds import bare
from dspark_lab.plots.style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    INK,
    RED,
    bar_style,
    described,
    listed,
    picture,
    shown,
    styled,
)


def attention(mask, rows, columns, context=0):
    """Who attends to whom: a filled square where the row's position sees the column's.

    ``mask`` (rows, columns) of booleans; ``rows`` and ``columns``: names of the positions. ``context``: how many of the
    first columns are injected keys and values (the target's fused states); they are drawn in another colour and hatch.
    """
    mask = np.asarray(mask, bool)
    if mask.shape != (len(rows), len(columns)):
        raise ValueError(f"the mask is {mask.shape}; {len(rows)} rows and {len(columns)} columns are named")
    fig, ax = picture(0.46 * len(columns) + 1.6, 0.42 * len(rows) + 1.3)
    for (i, j), sees in np.ndenumerate(mask):
        look = {"facecolor": GREEN, "hatch": "///"} if j < context else {"facecolor": BLUE, "hatch": ""}
        look = {**look, "edgecolor": "white"} if sees else {"facecolor": "#f2f2f2", "edgecolor": "white"}
        ax.add_patch(rectangle(j - 0.5, i - 0.5, 1, 1, **look))
    ax.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5), aspect="equal")
    ax.set_xticks(range(len(columns)), [shown(c) for c in columns], rotation=60, ha="right", fontsize=8)
    ax.set_yticks(range(len(rows)), [shown(r) for r in rows], fontsize=8)
    ax.set(xlabel="keys and values", ylabel="queries")
    bare(ax)
    if context:
        ax.axvline(context - 0.5, color=BLACK, linewidth=1.5)
    seen, own = mask[:, :context].sum(1), mask[:, context:].sum(1)
    split = f"{context} injected (hatched) and {len(columns) - context} of their own" if context else len(columns)
    return described(
        fig,
        f"Attention pattern of {len(rows)} queries over {split} keys and values. From the first query to the last they "
        f"see {span(seen)} injected and {span(own)} other positions."
        if context
        else f"Attention pattern of {len(rows)} queries over {split} keys and values. From the first query to the last "
        f"they see {span(own)} of them.",
    )


def span(counts):
    """``counts`` in words: one number if all are the same, else the first and the last."""
    return str(counts[0]) if len(set(counts)) == 1 else f"{counts[0]} to {counts[-1]}"


def rectangle(x, y, width, height, **look):
    """A matplotlib rectangle."""
    from matplotlib.patches import Rectangle

    return Rectangle((x, y), width, height, **look)


@dataclass(frozen=True)
class CacheStep:
    """What the caches hold at one moment: its ``title``, and by each cache's name the names of its ``entries``.

    ``new``: how many of a cache's last entries were written in this step; ``removed``: those it just forgot.
    """

    title: str
    entries: dict[str, list[str]]
    new: dict[str, int]
    removed: dict[str, list[str]]


def cache_steps(r, decode, held):
    """The target's and the drafter's caches through one Round: as it starts, after verification, after the rollback.

    ``held``: the names of the entries that both caches have at the start; they lack the anchor, which no pass has seen.
    The target writes the anchor and every scheduled token and forgets those that were not accepted; the drafter is
    given the states of the committed ones alone and never has anything to forget.
    """
    held = [shown(name) for name in held]
    seen = [shown(decode([token])) for token in (r.anchor, *r.drafted[: r.scheduled])]
    kept = len(r.committed)
    return [
        CacheStep("before the round", {"target": held, "drafter": held}, {}, {}),
        CacheStep("after verification", {"target": [*held, *seen], "drafter": held}, {"target": len(seen)}, {}),
        CacheStep(
            "after the rollback",
            {"target": [*held, *seen[:kept]], "drafter": [*held, *seen[:kept]]},
            {"drafter": kept},
            {"target": seen[kept:]},
        ),
    ]


def caches(steps, last=14):
    """The caches drawn entry by entry: a row a cache and step. New entries are hatched, removed ones crossed out.

    ``steps``: CacheSteps, as `cache_steps` gives them. ``last``: at most so many entries of each, the last ones.
    """
    rows = [(step, name) for step in steps for name in step.entries]
    longest = max(len(step.entries[name]) + len(step.removed.get(name, ())) for step, name in rows)
    last = min(last, longest)
    fig, ax = picture(0.62 * last + 2.0, 0.42 * len(rows) + 0.5)
    for y, (step, name) in enumerate(rows):
        draw_cache(ax, y, step, name, last)
    ax.set(xlim=(-0.6, last + (longest > last) - 0.4), ylim=(len(rows) - 0.4, -0.6), xticks=[])
    ax.set_yticks(range(len(rows)), [f"{step.title}\n{name}" for step, name in rows], fontsize=8)
    bare(ax)
    said = [f"{step.title}, {name}: {len(step.entries[name])} entries{change(step, name)}" for step, name in rows]
    return described(fig, f"The caches entry by entry. {'; '.join(said)}.")


def change(step, name):
    """What ``step`` changed in the cache ``name``, in words."""
    new, removed = step.new.get(name, 0), len(step.removed.get(name, ()))
    return (f", {new} new" if new else "") + (f", {removed} removed" if removed else "")


def draw_cache(ax, y, step, name, last):
    """One cache at one step, along the height ``y``."""
    entries, removed = step.entries[name], step.removed.get(name, [])
    everything = [*entries, *removed]
    start, fresh = max(0, len(everything) - last), len(entries) - step.new.get(name, 0)
    if start:
        ax.text(0, y, f"… {start}", ha="center", va="center", fontsize=8, color=GREY)
    for i, entry in enumerate(everything[start:], start):
        gone = i >= len(entries)
        look = {"facecolor": "#d7eaf5" if fresh <= i < len(entries) else "white", "edgecolor": RED if gone else BLUE}
        hatch = "//" if fresh <= i < len(entries) else ""
        x = i - start + (start > 0)
        ax.add_patch(rectangle(x - 0.46, y - 0.34, 0.92, 0.68, hatch=hatch, linestyle=":" if gone else "-", **look))
        text = ax.text(x, y, entry[:7], ha="center", va="center", fontsize=7, color=RED if gone else INK)
        text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.85})
        if gone:
            ax.plot([x - 0.4, x + 0.4], [y + 0.28, y - 0.28], color=RED, linewidth=1.2)


def markov_bias(base, bias, words, previous, most=12):
    """Base logits, the Markov bias and their sum at one position, each centred, for the likeliest tokens of the sum.

    ``base`` and ``bias``: logits (vocab,), B(previous, .) being the bias; ``words(id)`` names a token; ``previous``
    names the token before. Rows are centred on the mean over the vocabulary: a constant changes no probability.
    """
    base, bias = (np.array(row, np.float64) for row in (base, bias))
    base, bias = base - base.mean(), bias - bias.mean()
    total = base + bias
    top = list(dict.fromkeys([*np.argsort(-total)[: most - 3], *np.argsort(-base)[:3]]))
    fig, axes = picture(max(6.4, 0.62 * len(top) + 1.6), 4.6, 3, 1, sharex=True)
    for ax, (style, name, row) in zip(axes[:, 0], styled({"base": base, "bias": bias, "sum": total})):
        ax.bar(range(len(top)), row[top], **bar_style(name, style))
        ax.axhline(0, color=INK, linewidth=0.8)
        ax.set_ylabel(name, rotation=0, ha="right", va="center")
    axes[2, 0].set_xticks(range(len(top)), [shown(words(int(i))) for i in top], rotation=35, ha="right", fontsize=8)
    fig.suptitle(f"after {shown(previous)}", fontsize=10)
    first, second = int(base.argmax()), int(total.argmax())
    moved = "stays" if first == second else f"moves to {words(second)!r} ({total[second]:.1f})"
    return described(
        fig,
        f"Centred logits after {previous!r}. Without the bias {words(first)!r} leads with {base[first]:.1f}; its bias "
        f"is {bias[first]:.1f}, and the lead {moved}. Largest biases of those shown: {largest(bias, top, words)}.",
    )


def largest(row, top, words, most=3):
    """The tokens of ``top`` that ``row`` favours most, in a sentence."""
    return listed([f"{words(int(i))!r} {row[i]:+.1f}" for i in sorted(top, key=lambda i: -row[i])[:most]])
