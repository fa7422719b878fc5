"""Rounds drawn token by token, and races drawn against the clock."""

from dataclasses import asdict, dataclass
from itertools import islice
from textwrap import shorten

from dspark_lab import metrics
from dspark_lab.plots.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    PURPLE,
    RED,
    STYLES,
    as_groups,
    bar_style,
    counted,
    described,
    legend_below,
    line_style,
    listed,
    number,
    picture,
    shown,
    styled,
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
# What `round_parts` draws of a Cell, each by the name in the legend; and those that are bars, by how far aside.
PARTS = {"p, the target's": "p", "q, the drafter's": "q", "min(1, p/q)": "chance", "confidence": "confidence"}
ASIDE = {"p": -0.2, "q": 0.2}


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


def table_of(rounds, decode, plain=True):
    """The ``rounds`` of one text as rows of Cells, by the number of the round in its text, from 1.

    ``plain``: whether rounds without a draft are among them. Raises ValueError if there are none.
    """
    table, before = {}, []
    for i, r in enumerate(rounds, 1):
        if plain or r.drafted:
            table[i] = cells(r, decode, before)
        before += [r.anchor, *r.committed[:-1]]
    if not table:
        raise ValueError(f"there are no rounds{'' if plain else ' with a draft'} to draw; give those of a text")
    return table


def jsonable(cell):
    """A Cell as a plain dict with its chance, ready for JSON."""
    return {**asdict(cell), "chance": cell.chance}


def ribbon(rounds, decode, limit=16, plain=True):
    """Rounds of one text, a row each: every drafted token with its fate, then the target's own.

    ``decode``: from a list of token ids to text (a tokenizer's). ``limit``: at most so many rows, the first ones.
    ``plain``: whether rounds without a draft have a row, too. Rows bear the numbers of their rounds in the text.
    """
    table = dict(islice(table_of(rounds, decode, plain).items(), limit))
    columns = max(map(len, table.values()))
    fig, ax = picture(max(6.4, 0.95 * columns + 0.6), 0.34 * len(table) + 1.0)
    for y, row in enumerate(table.values()):
        draw_row(ax, y, row)
    ax.set(xlim=(-0.55, columns - 0.45), ylim=(len(table) - 0.4, -0.6), yticks=range(len(table)))
    ax.set(yticklabels=list(table), xticks=[], ylabel="round")
    if list(table) == [1]:  # a round alone, whose number in its text is not known
        ax.set(yticks=[], ylabel="")
    bare(ax)
    fates = [cell.fate for row in table.values() for cell in row]
    present = [fate for fate in FATES if fate in fates]
    text = "    ".join(f"{FATES[fate][0]} {fate} {fates.count(fate)}".strip() for fate in present)
    ax.set_title(text, fontsize=9, loc="left", color=INK)
    fared = listed([f"{fates.count(fate)} {FATES[fate][2]}" for fate in present])
    tokens = sum(rounds[i - 1].accepted_length for i in table)
    which = "" if plain else f" with a draft ({listed(list(map(str, table)))})"
    each = ", a row each" if len(table) > 1 else ""
    made = f"{counted(len(table), 'round')} of one text{which}{each}, which gave {counted(tokens, 'token')}"
    return described(fig, f"{made}: {fared}.")


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
    for style, name, value in styled(PARTS):
        points = [(cell.position, getattr(cell, value)) for cell in drafted if getattr(cell, value) is not None]
        if points and value in ASIDE:
            ax.bar(*zip(*[(k + ASIDE[value], y) for k, y in points]), width=0.38, **bar_style(name, style))
        elif points:
            ax.plot(*zip(*points), **{**line_style(name, style), "linestyle": "", "markeredgecolor": INK})
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
    for style, label, rounds in styled(as_groups(lanes, "lane")):
        seconds, tokens = [0.0], [0]
        for r in rounds:
            seconds.append(seconds[-1] + r.seconds)
            tokens.append(tokens[-1] + r.accepted_length)
        ax.plot(seconds, tokens, drawstyle="steps-post", **{**line_style(label, style), "markevery": [-1]})
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
    for style, part in zip(STYLES, ("draft", "verify", "other")):
        widths = [1000 * metrics.seconds_by_part(rounds)[part] / len(rounds) for rounds in groups.values()]
        ax.barh(range(len(groups)), widths, left=left, height=0.6, **bar_style(part, style))
        for label, width in zip(groups, widths):
            said[label].append(f"{part} {width:.2f} ms")
        left = [a + b for a, b in zip(left, widths)]
    ax.set(yticks=range(len(groups)), yticklabels=list(groups), xlabel="milliseconds a round")
    ax.invert_yaxis()
    ax.grid(visible=False)
    legend_below(fig, ax)
    return described(fig, f"A round's time by part. {'; '.join(f'{k}: {listed(v)}' for k, v in said.items())}.")
