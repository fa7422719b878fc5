"""What all figures share: a Figure that carries its own description, and colours that are never the only cue."""

import io
from base64 import b64encode
from html import escape

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

# Okabe and Ito's colours, without their yellow, which is too pale on white paper.
BLACK, ORANGE, SKY, GREEN, BLUE, RED, PURPLE = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)
GREY, INK, PAPER = "#666666", "#1a1a1a", "#ffffff"
STYLES = [  # a series' colour, marker, line and hatch: any one of them tells it from the others
    {"color": BLUE, "marker": "o", "linestyle": "-", "hatch": ""},
    {"color": RED, "marker": "s", "linestyle": "--", "hatch": "///"},
    {"color": GREEN, "marker": "^", "linestyle": "-.", "hatch": "..."},
    {"color": PURPLE, "marker": "D", "linestyle": ":", "hatch": "xxx"},
    {"color": BLACK, "marker": "v", "linestyle": (0, (5, 1, 1, 1, 1, 1)), "hatch": "---"},
    {"color": ORANGE, "marker": "P", "linestyle": (0, (7, 2)), "hatch": "ooo"},
    {"color": SKY, "marker": "X", "linestyle": (0, (1, 3)), "hatch": "++"},
]
MODES = {"dspark": 0, "dflash": 1, "eagle3": 2, "lookup": 3, "baseline": 4, "plain": 4, "dflash16": 5}
DOTS_PER_INCH = 110
ROUNDING = 1e-6  # by so much of itself an estimate may lie outside its interval
COLOURS = 64  # in a stored picture's palette: it is a third as large, and looks the same


class Picture(Figure):
    """A matplotlib Figure with a sentence, ``alt``, that says what it shows, numbers included.

    A notebook shows it with that sentence as the image's alternative text and as its caption, so that nobody depends
    on the image. Every colour, the paper included, is the figure's own: a dark page changes none.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, facecolor=PAPER, layout="constrained", **kwargs)
        self.alt = ""

    def png(self):
        """The image as PNG bytes."""
        drawn, stored = io.BytesIO(), io.BytesIO()
        self.savefig(drawn, format="png", dpi=DOTS_PER_INCH)
        Image.open(drawn).convert("RGB").quantize(COLOURS).save(stored, format="png", optimize=True)
        return stored.getvalue()

    def html(self):
        """The image with its alternative text and, below it, the same as a caption."""
        alt, width = escape(self.alt, quote=True), round(self.get_figwidth() * 100)
        image = f'<img alt="{alt}" width="{width}" src="data:image/png;base64,{b64encode(self.png()).decode()}">'
        return f'<figure style="margin: 0.5em 0">{image}<figcaption>{alt}</figcaption></figure>'

    def _repr_mimebundle_(self, include=None, exclude=None):
        # JupyterLab and nbconvert drop the alternative text of an image/png; as HTML both keep it. Others want the PNG.
        data = {"text/plain": self.alt, "text/html": self.html(), "image/png": b64encode(self.png()).decode()}
        return data, {"image/png": {"alt": self.alt}}


def alt_text(fig):
    """The sentence, with the numbers, that says what ``fig``, a Picture of this package, shows."""
    if not getattr(fig, "alt", ""):
        raise ValueError("this figure has no description; give one that a function of dspark_lab.plots returned")
    return fig.alt


def picture(width=6.4, height=3.6, rows=1, columns=1, **options):
    """A Picture of ``width`` x ``height`` inches and its axes, an array (rows, columns) or the one alone."""
    fig = Picture(figsize=(width, height))
    axes = fig.subplots(rows, columns, squeeze=False, **options)
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_axisbelow(True)
        ax.grid(axis="y", color="#dddddd", linewidth=0.7)
        ax.tick_params(colors=INK)
    return fig, axes[0, 0] if rows == columns == 1 else axes


def described(fig, sentence):
    """``fig`` with ``sentence`` as its description, which begins with a capital unless with a letter such as τ."""
    text = " ".join(sentence.split())
    fig.alt = text[0].upper() + text[1:] if text[0].isascii() else text
    return fig


def legend_below(fig, ax, columns=4):
    """What the series are, under the figure, where it covers nothing; to be read row by row."""
    found = list(zip(*ax.get_legend_handles_labels()))
    columns = min(columns, len(found))
    by_column = [entry for column in range(columns) for entry in found[column::columns]]  # as matplotlib fills them
    fig.legend(*zip(*by_column), loc="outside lower center", ncols=columns, frameon=False, fontsize=9)


def styles(labels):
    """One of STYLES for each of a figure's series, no two alike: a list.

    A drafter's mode has the same one in every figure; the other series share out what is left, in order. Raises
    ValueError where there are more series than styles.
    """
    if len(labels) > len(STYLES):
        raise ValueError(
            f"there are {len(labels)} series, and {len(STYLES)} can be told apart in one figure; draw fewer in each"
        )
    chosen = {}
    for place, label in enumerate(labels):
        if (own := MODES.get(str(label).lower())) is not None and own not in chosen.values():
            chosen[place] = own
    free = [i for i in range(len(STYLES)) if i not in chosen.values()]
    return [STYLES[chosen[place] if place in chosen else free.pop(0)] for place in range(len(labels))]


def styled(series):
    """(style, label, data) for each of ``series``, a dict from label to data; see `styles`."""
    return [(style, *pair) for style, pair in zip(styles(series), series.items())]


def line_style(label, style):
    """A ``style`` as the arguments of a line with markers."""
    looks = {key: value for key, value in style.items() if key != "hatch"}
    return {**looks, "linewidth": 2, "markersize": 6, "markeredgecolor": PAPER, "label": str(label)}


def bar_style(label, style):
    """A ``style`` as the arguments of a bar, hatched in the paper's colour."""
    return {"color": style["color"], "hatch": style["hatch"], "edgecolor": PAPER, "linewidth": 0.8, "label": str(label)}


def with_interval(ax, points, label, style):
    """Draw a line through ``points``, each (x, estimate, low, high), with their intervals; low None is no interval."""
    x, y, *_ = zip(*points)
    ax.plot(x, y, **line_style(label, style))
    known = [point for point in points if point[2] is not None]
    if known:
        x, y, low, high = zip(*known)
        ax.errorbar(x, y, yerr=reach(y, low, high), fmt="none", ecolor=style["color"], elinewidth=1.3, capsize=3)


def reach(estimates, lows, highs):
    """How far intervals reach below and above their estimates, (2, n), as matplotlib's error bars want it.

    Raises ValueError where an estimate lies outside its interval: the bounds were swapped, or given in another order.
    """
    below, above = np.subtract(estimates, lows), np.subtract(highs, estimates)
    for estimate, low, high, short in zip(estimates, lows, highs, np.minimum(below, above)):
        if short < -ROUNDING * max(1, abs(estimate)):
            raise ValueError(
                f"{estimate:g} lies outside its interval, {low:g} to {high:g}; give (estimate, low, high), low first"
            )
    return np.maximum([below, above], 0)


def shown(token_text):
    """``token_text`` as a label: quoted where it has spaces at its ends, its line breaks as a sign, never empty."""
    text = token_text.replace("\n", "⏎").replace("\t", "⇥").replace("$", r"\$")
    return f"“{text}”" if not text.strip() or text != text.strip() else text


def number(value, digits=2):
    """``value`` in a sentence: ``digits`` decimals, or significant digits where it is large."""
    return f"{value:.{digits}f}" if abs(value) < 100 else f"{value:,.0f}"


def brief(value):
    """``value`` in a sentence: whole numbers as such, others with three decimals, or significant digits where large."""
    return f"{value:,.0f}" if float(value).is_integer() else number(value, 3)


def counted(n, noun):
    """``n`` of a thing in a sentence: "1 round", "8 rounds"."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def listed(values, digits=2):
    """``values`` in a sentence: "0.72, 0.68 and 0.63"."""
    texts = [value if isinstance(value, str) else number(value, digits) for value in values]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"


def some(groups, what="rounds"):
    """``groups``, a dict from label to data, of which there must be some, none of them empty."""
    if not groups or any(hasattr(data, "__len__") and not len(data) for data in groups.values()):
        raise ValueError(f"there is nothing to draw: give a dict of labels, each with {what}")
    return groups


def as_groups(given, label="rounds"):
    """``given``, a dict from label to Rounds, or Rounds alone under ``label``."""
    return some(given if isinstance(given, dict) else {label: given})
