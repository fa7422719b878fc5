"""What to choose among drafters by: rates by position side by side, and what tokens cost."""

import numpy as np

from dspark_lab.plots.acceptance import points
from dspark_lab.plots.style import (
    GREY,
    INK,
    PAPER,
    counted,
    described,
    legend_below,
    line_style,
    listed,
    number,
    picture,
    some,
    styled,
    with_interval,
)

RAYS = (0.5, 1, 2, 3, 4, 6)  # speedups drawn as lines of equal speed


def by_position_panels(panels, ylabel, title="", marks=None):
    """One rate by position, a panel a group of texts, in the shape of the paper's figure 2.

    ``panels``: panel -> {series: Rates, Means or plain numbers by position}. ``marks``: panel -> {series: {position:
    value}}, somebody else's figures, drawn hollow beside the series of the same name.
    """
    marks = marks or {}
    fig, axes = picture(max(5.4, 3.3 * len(some(panels, "series"))), 3.7, 1, len(panels), sharey=True)
    axes, said = np.atleast_1d(axes).ravel(), []
    for ax, (panel, series) in zip(axes, panels.items()):
        lines = {label: points(rates) for label, rates in some(series, "rates").items()}
        marked = marks.get(panel, {})
        looks = {label: style for style, label, _ in styled({**lines, **marked})}
        for label, line in lines.items():
            with_interval(ax, line, label, looks[label])
            said.append(f"{panel}, {label}: {first_and_last(line)}")
        for label, given in marked.items():
            style = line_style(label, looks[label])
            hollow = {"markersize": 11, "markerfacecolor": "none", "markeredgecolor": style["color"], "linestyle": ""}
            ax.plot(*zip(*given.items()), **{**style, **hollow, "label": None, "markeredgewidth": 1.6})
            said.append(f"{panel}, {label}, published (hollow): {first_and_last(list(given.items()))}")
        longest = max(len(line) for line in lines.values())
        ax.set(xlabel="position k in the draft", ylim=(-0.03, 1.03), xticks=range(1, longest + 1, 1 + longest // 10))
        ax.set_title(panel, fontsize=10)
    axes[0].set_ylabel(ylabel)
    legend_below(fig, axes[0], columns=6)
    return described(fig, f"{title or ylabel}. {'; '.join(said)}.")


def first_and_last(line):
    """The first and last points of ``line``, (position, value, ...), in words."""
    return listed([f"{y:.2f} at {k}" for k, y, *_ in (line[:1] if len(line) == 1 else (line[0], line[-1]))])


def against_cost(panels):
    """Accepted length against what a round costs, a panel a kind of text, a point a draft length.

    ``panels``: panel -> {mode: {draft length: (cost in plain passes, accepted length)}}. Rays from the origin join
    points of equal speed; along a ray it is accepted length over cost, and plain decoding is the point (1, 1). The
    star is the fastest point. Draft length 0, plain decoding, is the same for all modes.
    """
    fig, axes = picture(max(5.4, 3.4 * len(some(panels, "modes"))), 3.9, 1, len(panels))
    axes, said = np.atleast_1d(axes).ravel(), []
    for ax, (panel, modes) in zip(axes, panels.items()):
        everything = [point for row in some(modes, "draft lengths").values() for point in row.values()]
        right, top = (1.08 * max(column) for column in zip(*everything))
        draw_rays(ax, right, top, 2 * max(gained / cost for cost, gained in everything))
        for style, mode, row in styled(modes):
            ax.plot(*zip(*row.values()), **line_style(mode, style))
        speed, mode, length = max(
            (gained / cost, mode, n) for mode, row in modes.items() for n, (cost, gained) in row.items()
        )
        cost, gained = modes[mode][length]
        name = f"{mode} with {counted(length, 'draft')}" if length else "plain decoding"
        ax.plot(cost, gained, marker="*", markersize=17, color=INK, markeredgecolor=PAPER)
        said.append(
            f"{panel}: fastest is {name}, {number(gained)} tokens a round at {number(cost)} passes, "
            f"{number(speed)} times plain"
        )
        ax.set(xlabel="cost of a round, in plain passes", xlim=(0, right), ylim=(0, top))
        ax.set_title(panel, fontsize=10)
    axes[0].set_ylabel("tokens a round")
    legend_below(fig, axes[0], columns=6)
    return described(fig, f"Accepted length against the cost of a round, by draft length. {'; '.join(said)}.")


def draw_rays(ax, right, top, highest):
    """Lines of equal speed, up to ``highest``, in an axes of this extent, each named where it leaves the axes."""
    for ray in (ray for ray in RAYS if ray <= highest):
        x = min(right, top / ray)
        ax.plot([0, x], [0, ray * x], color=GREY, linewidth=0.8, linestyle=":" if ray != 1 else "-")
        at_top = ray * right > top
        place = {"ha": "right", "va": "top"} if at_top else {"ha": "right", "va": "bottom"}
        ax.annotate(f"{ray:g}×", (x, ray * x), (-1, -1), textcoords="offset points", fontsize=7, color=GREY, **place)
