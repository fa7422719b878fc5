"""Rounds drawn token by token, and races drawn against the clock."""

from dataclasses import asdict, dataclass
from textwrap import shorten

from dspark_lab import metrics
from dspark_lab.plots.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    PURPLE,
    RED,
    as_groups,
    bar_style,
    described,
    legend_below,
    line_style,
    listed,
    number,
    picture,
    shown,
)
from dspark_lab.terminal import piece

FATES = {  # glyph, colour, and what it means
    "accepted": ("✓", GREEN, "drafted and accepted"),
    "rejected": ("✗", RED, "drafted and rejected"),
    "behind": ("·", GREY, "drafted in vain, behind a rejection or a stop"),
    "unverified": ("?", GREY, "drafted, but not verified"),
    "correction": ("→", PURPLE, "the target's own, in place of the rejected"),
    "bonus": ("+", BLUE, "the target's own, after a full acceptance"),
    "plain": ("", INK, "the target's own, nothing was drafted"),
}


@dataclass(frozen=True)
class Cell:
    """One token of a round as a reader meets it.

    ``text``; its ``fate``, a key of FATES; ``position`` in the draft from 1, None for the target's own token; ``p`` and
    ``q`` of the token, the ``overlap`` sum(min(p, q)) and the ``confidence`` there, each None where it is not known.
    """

    text: str
    fate: str
    position: int | None = None
    p: float | None = None
    q: float | None = None
    overlap: float | None = None
    confidence: float | None = None

    @property
    def chance(self):
        """min(1, p/q), with which the token is accepted; None where it was not verified."""
        return None if self.p is None or not self.q else min(1.0, self.p / self.q)


def cells(r, decode, before=()):
    """The Round ``r`` as Cells: all that was drafted, in order, then the target's own token.

    ``decode``: from a list of token ids to text. ``before``: the tokens ahead of the anchor, for texts of tokens that
    depend on them.
    """
    context, row = [*before, r.anchor], []
    kept = min(r.accepted, len(r.committed))
    for k, token in enumerate(r.drafted):
        text = piece(decode, [*context, *r.drafted[:k]], token)
        row.append(Cell(text, fate_of(r, k, kept), k + 1, *(at(values, k) for values in known(r))))
    if r.ending != "stop":
        text = piece(decode, [*context, *r.committed[:-1]], r.committed[-1])
        row.append(Cell(text, r.ending if r.drafted else "plain"))
    return row


def known(r):
    """What a Round tells about each drafted token: p, q, overlap, confidence."""
    return r.target_probs, r.draft_probs, r.overlap, r.confidence


def at(values, k):
    """``values[k]``, or None where there is none."""
    return values[k] if values is not None and k < len(values) else None


def fate_of(r, k, kept):
    """The fate of the drafted token ``k`` (from 0) of ``r``, of whose draft ``kept`` tokens are in the text."""
    if k < kept:
        return "accepted"
    if k >= r.scheduled:
        return "unverified"
    return "rejected" if k == kept and r.ending == "correction" else "behind"


def rows(rounds, decode):
    """All ``rounds`` of one text as lists of Cells, each as a plain dict with its chance, ready for JSON."""
    told, before = [], []
    for r in rounds:
        told.append([{**asdict(cell), "chance": cell.chance} for cell in cells(r, decode, before)])
        before += [r.anchor, *r.committed[:-1]]
    return told


def ribbon(rounds, decode, limit=16):
    """Rounds of one text, a row each: every drafted token with its fate, then the target's own.

    ``decode``: from a list of token ids to text (a tokenizer's). ``limit``: at most so many rounds, the first ones.
    """
    metrics.some(rounds)
    table, before = [], []
    for r in rounds[:limit]:
        table.append(cells(r, decode, before))
        before += [r.anchor, *r.committed[:-1]]
    columns = max(map(len, table))
    fig, ax = picture(max(6.4, 0.95 * columns + 0.6), 0.34 * len(table) + 1.0)
    for y, row in enumerate(table):
        draw_row(ax, y, row)
    ax.set(xlim=(-0.55, columns - 0.45), ylim=(len(table) - 0.4, -0.6), yticks=range(len(table)))
    ax.set(yticklabels=range(1, len(table) + 1), xticks=[], ylabel="round")
    bare(ax)
    fates = [cell.fate for row in table for cell in row]
    present = [fate for fate in FATES if fate in fates]
    text = "    ".join(f"{FATES[fate][0]} {fate} {fates.count(fate)}".strip() for fate in present)
    ax.set_title(text, fontsize=9, loc="left", color=INK)
    counted = listed([f"{fates.count(fate)} {FATES[fate][2]}" for fate in present])
    tokens = sum(r.accepted_length for r in rounds[:limit])
    return described(fig, f"{len(table)} rounds of one text, a row each, which gave {tokens} tokens: {counted}.")


def draw_row(ax, y, row):
    """One round's Cells along the height ``y``."""
    for x, cell in enumerate(row):
        glyph, colour, _ = FATES[cell.fate]
        own, vain = cell.position is None, cell.fate in ("behind", "unverified")
        box = {"boxstyle": "round,pad=0.25", "edgecolor": colour, "linewidth": 2 if own else 1.1}
        box |= {"facecolor": "#f2f2f2" if vain else "white", "linestyle": ":" if vain else "-"}
        text = f"{glyph} {shown(shorten(cell.text, 12, placeholder='…') if cell.text.strip() else cell.text)}"
        ax.text(x, y, text, ha="center", va="center", fontsize=8, color=colour if vain else INK, bbox=box)


def bare(ax):
    """Take grid, ticks and frame away."""
    ax.grid(visible=False)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def round_parts(r, decode, before=()):
    """One Round taken apart: p and q of every drafted token as bars, the chance min(1, p/q), confidence and fate.

    ``decode`` and ``before`` as in `cells`. Where a token was not verified, p is not known and no bar stands for it.
    """
    row = cells(r, decode, before)
    drafted = [cell for cell in row if cell.position]
    if not drafted:
        raise ValueError("nothing was drafted in this round; take one of a drafter")
    fig, ax = picture(max(6.4, 0.95 * len(row)), 3.6)
    for i, (name, shift) in enumerate((("p", -0.2), ("q", 0.2))):
        points = [(cell.position + shift, getattr(cell, name)) for cell in drafted if getattr(cell, name) is not None]
        if points:
            ax.bar(*zip(*points), width=0.38, **bar_style({"p": "p, the target's", "q": "q, the drafter's"}[name], i))
    for name, i, values in (("min(1, p/q)", 2, "chance"), ("confidence", 3, "confidence")):
        points = [(cell.position, getattr(cell, values)) for cell in drafted if getattr(cell, values) is not None]
        if points:
            ax.plot(*zip(*points), **{**line_style(name, i), "linestyle": "", "markeredgecolor": INK})
    names = [f"{shown(cell.text)}\n{FATES[cell.fate][0]} {cell.fate}" for cell in row]
    ax.set(xticks=range(1, len(row) + 1), ylim=(0, 1.05), ylabel="probability")
    ax.set_xticklabels(names, fontsize=8)
    legend_below(fig, ax)
    said = [f"{cell.text!r} {told(cell)}" for cell in drafted]
    own = f" The target's own token is {row[-1].text!r}, the {row[-1].fate}." if row[-1].position is None else ""
    return described(fig, f"One round after the anchor {decode([r.anchor])!r}: {'; '.join(said)}.{own}")


def told(cell):
    """A drafted Cell's numbers and fate in words."""
    if cell.p is None:
        return f"(q {cell.q:.2f}) {FATES[cell.fate][2]}"
    return f"(p {cell.p:.2f}, q {cell.q:.2f}, chance {cell.chance or 0:.2f}) {cell.fate}"


def race(lanes):
    """Tokens against seconds for lanes that each had a clock of its own: a step a pass. ``lanes``: label -> Rounds."""
    fig, ax = picture()
    said = []
    for i, (label, rounds) in enumerate(as_groups(lanes, "lane").items()):
        seconds, tokens = [0.0], [0]
        for r in rounds:
            seconds.append(seconds[-1] + r.seconds)
            tokens.append(tokens[-1] + r.accepted_length)
        style = {**line_style(label, i), "markevery": [-1]}
        ax.plot(seconds, tokens, drawstyle="steps-post", **style)
        speed = number(metrics.tokens_per_second(rounds), 0)
        said.append(f"{label}: {tokens[-1]} tokens in {len(rounds)} passes and {seconds[-1]:.2f} s, {speed} a second")
    ax.set(xlabel="seconds on the lane's own clock", ylabel="tokens")
    legend_below(fig, ax)
    return described(fig, f"A race: tokens against time, a step a pass. {'; '.join(said)}.")


def seconds_by_part(groups):
    """Where a round's milliseconds go: draft, verify and the rest, stacked, for each group of Rounds."""
    groups = as_groups(groups)
    fig, ax = picture(6.4, 0.5 * len(groups) + 1.5)
    left, said = [0.0] * len(groups), {label: [] for label in groups}
    for i, part in enumerate(("draft", "verify", "other")):
        widths = [1000 * metrics.seconds_by_part(rounds)[part] / len(rounds) for rounds in groups.values()]
        ax.barh(range(len(groups)), widths, left=left, height=0.6, **bar_style(part, i))
        for label, width in zip(groups, widths):
            said[label].append(f"{part} {width:.2f} ms")
        left = [a + b for a, b in zip(left, widths)]
    ax.set(yticks=range(len(groups)), yticklabels=list(groups), xlabel="milliseconds a round")
    ax.invert_yaxis()
    ax.grid(visible=False)
    legend_below(fig, ax)
    return described(fig, f"A round's time by part. {'; '.join(f'{k}: {listed(v)}' for k, v in said.items())}.")
