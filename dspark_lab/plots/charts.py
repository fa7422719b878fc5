"""Two kinds of chart that many figures are: bars by group, and curves."""

import numpy as np
from matplotlib.ticker import MaxNLocator

from dspark_lab.plots.style import (
    INK,
    bar_style,
    brief,
    described,
    legend_below,
    line_style,
    listed,
    number,
    picture,
    reach,
    some,
    styled,
    with_interval,
)


def bars(table, ylabel, title="", reference=None):
    """Groups of bars: ``table`` is series -> {group: value}, a value a number or (estimate, low, high) or a Ratio.

    For accepted length, tokens a second or speedup by drafter and domain. ``reference``: a level to draw a line at.
    Where all values are whole, they are written so.
    """
    groups = list(dict.fromkeys(group for row in some(table, "values").values() for group in row))
    fig, ax = picture(max(5.0, (0.45 + 0.35 * len(table)) * len(groups) + 2.2), 3.6)
    width, said = 0.8 / len(table), []
    written = brief if all(whole(estimate_of(v)[0] for v in row.values()) for row in table.values()) else number
    for i, (style, series, row) in enumerate(styled(table)):
        cells = {group: estimate_of(row[group]) for group in groups if group in row}
        at = [groups.index(group) + (i - (len(table) - 1) / 2) * width for group in cells]
        estimates, lows, highs = np.array(list(cells.values())).T
        error = reach(estimates, lows, highs)
        ax.bar(at, estimates, width * 0.94, yerr=error if error.any() else None, capsize=3, **bar_style(series, style))
        for x, y, top in zip(at, estimates, highs):
            ax.annotate(written(y), (x, top), (0, 2), textcoords="offset points", ha="center", fontsize=7)
        said.append(f"{series}: {listed([f'{written(y)} on {group}' for group, y in zip(cells, estimates)])}")
    if reference is not None:
        ax.axhline(reference, color=INK, linestyle="--", linewidth=1)
    ax.set(ylabel=ylabel, xticks=range(len(groups)), xticklabels=groups, title=title)
    ax.margins(y=0.12)
    legend_below(fig, ax)
    return described(fig, f"{title or ylabel}. {'; '.join(said)}.")


def estimate_of(value):
    """``value`` as (estimate, low, high); a number is its own interval."""
    if hasattr(value, "estimate"):
        return value.estimate, value.low, value.high
    return tuple(value) if isinstance(value, tuple | list) else (value, value, value)


def whole(values):
    """Whether all ``values`` are whole numbers."""
    return all(float(value).is_integer() for value in values)


def curves(series, xlabel, ylabel, title="", log=False):
    """Any curves: ``series`` is label -> points (x, y) or (x, y, low, high), or {x: y}; ``log``: x in powers of 2.

    For training losses, the truncated rank, a temperature that goes to 0, or acceptance that climbs.
    """
    fig, ax = picture()
    said = []
    for style, label, given in styled(some(series, "points")):
        line = [(*point, None, None)[:4] for point in sorted(given.items() if isinstance(given, dict) else given)]
        if len(line) > 40:
            looks = {**line_style(label, style), "markevery": max(1, len(line) // 10)}
            ax.plot(*zip(*[point[:2] for point in line]), **looks)
        else:
            with_interval(ax, line, label, style)
        (first, start, *_), (last, end, *_) = line[0], line[-1]
        said.append(f"{label}: {brief(start)} at {first:g}, {brief(end)} at {last:g}")
    if log:
        ax.set_xscale("log", base=2)
    elif whole(x for line in ax.get_lines() for x in line.get_xdata()):
        ax.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=True))  # there is no turn 1.5
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    legend_below(fig, ax)
    return described(fig, f"{title or ylabel}, by {xlabel}. {'; '.join(said)}.")
