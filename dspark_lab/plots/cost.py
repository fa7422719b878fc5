"""What a pass costs, what draft length pays, and where an algorithm stops: from curves alone."""

import numpy as np

from dspark_lab.plots.style import (
    BLACK,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    STYLES,
    described,
    legend_below,
    line_style,
    listed,
    number,
    picture,
    reach,
    some,
    styled,
    styles,
    with_interval,
)

# Bounds get the first of these that no curve has: so they look alike however many curves there are.
BOUNDS_FIRST = sorted(STYLES, key=lambda look: look["color"] not in (PURPLE, BLACK))


def verify_cost(curves, fit=None, bounds=None, relative=False):
    """Milliseconds of a pass over n tokens: measured curves, a straight fit, and bounds from below.

    ``curves``: label -> {tokens: seconds}, where the seconds may be (median, low, high). ``fit``: (intercept, slope) in
    seconds and seconds a token. ``bounds``: name -> {tokens: seconds}, such as the bytes over the bandwidth and the
    FLOPs over the matmul rate; what lies between the highest of them and a curve is unexplained, and is shaded under
    the first. ``relative``: in units of each curve's own pass of one token, so that machines compare.
    """
    fig, ax = picture()
    lines = {label: curve_points(curve, relative) for label, curve in some(curves, "tokens and seconds").items()}
    looks = styles([*lines, *(bounds or {})])[: len(lines)]
    for style, (label, line) in zip(looks, lines.items()):
        with_interval(ax, line, label, style)
    first, unit = next(iter(lines.values())), "times a pass of one token" if relative else "ms"
    said = [f"{label}: {listed([f'{number(y)} at {n:g}' for n, y, *_ in ends(line)])}" for label, line in lines.items()]
    if fit:
        x = np.array([first[0][0], first[-1][0]])
        ax.plot(x, 1000 * (fit[0] + fit[1] * x), color=GREY, linewidth=1.5, linestyle="--", label="straight fit")
        said.append(f"the fit is {1000 * fit[0]:.2f} ms and {1000 * fit[1]:.3f} ms a token")
    if bounds:
        said.append(draw_bounds(ax, bounds, first, [look for look in BOUNDS_FIRST if look not in looks]))
    ax.set(xlabel="tokens in the pass", ylabel=f"time, {unit}", ylim=(0, None))
    legend_below(fig, ax, columns=2)
    return described(fig, f"The time of one pass by its number of tokens, {unit}. {'; '.join(said)}.")


def curve_points(curve, relative=False):
    """A cost ``curve`` as points (tokens, ms, low, high) in order; relative to its first point if asked."""
    points = []
    for tokens, seconds in sorted((int(n), cost) for n, cost in curve.items()):
        median, low, high = seconds if isinstance(seconds, tuple | list) else (seconds, None, None)
        points.append((tokens, *(None if value is None else 1000 * value for value in (median, low, high))))
    unit = points[0][1] if relative else 1
    return [(n, *(None if value is None else value / unit for value in values)) for n, *values in points]


def ends(line):
    """The first, middle and last points of ``line``, each once."""
    return [line[i] for i in sorted({0, len(line) // 2, len(line) - 1})]


def draw_bounds(ax, bounds, measured, looks):
    """Lower bounds on a pass, with what they leave of ``measured`` shaded; a sentence on that share."""
    lines = {name: dict(point[:2] for point in curve_points(curve)) for name, curve in bounds.items()}
    for style, (name, line) in zip(looks, lines.items()):
        ax.plot(*zip(*sorted(line.items())), **{**line_style(f"bound: {name}", style), "marker": ""})
    known = [
        (n, y, max(line[n] for line in lines.values()))
        for n, y, *_ in measured
        if all(n in line for line in lines.values())
    ]
    if not known:
        raise ValueError("the bounds share no number of tokens with the first curve; give them at its own numbers")
    x, y, floor = zip(*known)
    ax.fill_between(x, floor, y, color=ORANGE, alpha=0.2, hatch="..", edgecolor="white", label="unexplained")
    left = [f"{1 - low / high:.0%} at {n}" for n, high, low in (known[0], known[-1])]
    return f"the bounds leave unexplained {listed(left)} tokens of the first curve"


def speed_by_length(predicted, measured=None, plain=None, ceiling=None):
    """Tokens a second against draft length (0 is plain decoding): predicted lines, measured points, the best marked.

    ``predicted``: label -> {length: tokens a second}; ``measured``: the same, or with (value, low, high). ``plain``:
    plain decoding's speed. ``ceiling``: what a perfect drafter would reach, {length: tokens a second}.
    """
    fig, ax = picture()
    said = []
    for style, label, given in styled(some(predicted, "lengths")):
        line = sorted(given.items())
        ax.plot(*zip(*line), **line_style(label, style))
        best = max(line, key=lambda point: point[1])
        ax.plot(*best, marker="*", markersize=17, color=style["color"], markeredgecolor=INK)
        said.append(f"{label}: best at {best[0]:g} with {number(best[1])} tokens a second")
        for length, value in (measured or {}).get(label, {}).items():
            value, low, high = value if isinstance(value, tuple | list) else (value, value, value)
            ax.errorbar([length], [value], reach([value], [low], [high]), color=INK, marker="x", capsize=3)
        if pairs := [(given[n], first_of(v)) for n, v in (measured or {}).get(label, {}).items() if n in given]:
            error = np.median([abs(a / b - 1) for a, b in pairs])
            said.append(f"measured (crosses) differs by {error:.1%}{' in the median' if len(pairs) > 1 else ''}")
    if ceiling:
        ax.plot(*zip(*sorted(ceiling.items())), color=BLACK, linestyle=":", label="a perfect drafter")
        said.append(f"a perfect drafter reaches {number(max(ceiling.values()))}")
    if plain:
        ax.axhline(plain, color=GREY, linestyle="--", label="plain decoding")
        said.append(f"plain decoding has {number(plain)}")
    ax.set(xlabel="draft length γ", ylabel="tokens a second", ylim=(0, None))
    legend_below(fig, ax)
    return described(fig, f"Speed by draft length; stars are the best lengths. {'; '.join(said)}.")


def first_of(value):
    """The estimate of a value that may be (estimate, low, high)."""
    return value[0] if isinstance(value, tuple | list) else value


def scheduling(throughputs, stops=None, unit="tokens a second"):
    """Expected throughput as tokens are admitted one by one, and where each rule stops.

    ``throughputs``: label -> [expected throughput, in ``unit``, after admitting 0, 1, 2, ... draft tokens]; ``stops``:
    label -> {rule: number admitted}. On a smooth curve the first fall is the maximum; on a staircase it is not.
    """
    fig, ax = picture()
    said = []
    for style, label, values in styled(some(throughputs, "throughputs")):
        ax.plot(range(len(values)), values, **line_style(label, style))
        best = int(np.argmax(values))
        said.append(f"{label}: best at {best} admitted with {number(values[best], 3)}")
        rules_at = {}
        for rule, n in (stops or {}).get(label, {}).items():
            rules_at.setdefault(n, []).append(rule)
            said.append(f"{rule} stops at {n} with {number(values[n], 3)}")
        for j, (n, rules) in enumerate(rules_at.items()):
            mark_stop(ax, values, n, f"{', '.join(rules)}: {n}", j, above=label == next(iter(throughputs)))
    ax.set(xlabel="draft tokens admitted", ylabel=f"expected throughput, {unit}")
    ax.set_xticks(range(max(map(len, throughputs.values()))))
    ax.margins(y=0.35)
    legend_below(fig, ax)
    return described(fig, f"Expected throughput, {unit}, by draft tokens admitted. {'; '.join(said)}.")


def mark_stop(ax, values, n, text, j, above):
    """An arrow to ``values[n]`` with ``text``, the ``j``-th of its curve, above it or below, inside the figure."""
    ax.annotate(
        text,
        (n, values[n]),
        (0, (24 + 13 * j) * (1 if above else -1)),
        textcoords="offset points",
        ha="left" if n == 0 else "right" if n == len(values) - 1 else "center",
        fontsize=8,
        color=INK,  # a rule has no colour of its own: those are the curves'
        arrowprops={"arrowstyle": "->", "color": INK},
    )


def agreement(points, unit="tokens a second"):
    """Predicted against measured, the diagonal being agreement: ``points`` is label -> [(predicted, measured), ...].

    For the cost model against the bench, and for the published figures against the one-line formula.
    """
    fig, ax = picture(4.8, 4.4)
    said, everything = [], np.array([point for group in some(points, "pairs").values() for point in group], float)
    ax.plot([0, everything.max() * 1.05], [0, everything.max() * 1.05], color=GREY, linewidth=1)
    for style, label, group in styled(points):
        predicted, measured = np.array(group, float).T
        looks = {**line_style(label, style), "linestyle": "", "markersize": 8, "markeredgecolor": INK}
        ax.plot(predicted, measured, **looks)
        off = predicted / measured - 1
        worst = int(np.abs(off).argmax())
        said.append(
            f"{label}: median error {np.median(np.abs(off)):.1%}, worst {off[worst]:+.0%} at {number(measured[worst])}"
        )
    ax.set(xlabel=f"predicted, {unit}", ylabel=f"measured, {unit}", xlim=(0, None), ylim=(0, None), aspect="equal")
    legend_below(fig, ax)
    return described(fig, f"Predicted against measured {unit}. {'; '.join(said)}.")


def throughput(curves):
    """The paper's figure 7: a server's tokens a second in all against each user's own, a point a batch size.

    ``curves``: label -> {requests: tokens a second in all}.
    """
    fig, ax = picture()
    said = []
    for style, label, given in styled(some(curves, "batch sizes")):
        line = [(total / requests, total, requests) for requests, total in sorted(given.items())]
        ax.plot(*zip(*[point[:2] for point in line]), **line_style(label, style))
        for x, y, requests in line:
            ax.annotate(requests, (x, y), (6, 5), textcoords="offset points", fontsize=7)
        said.append(
            f"{label}: {listed([f'{number(y, 0)} in all and {number(x, 0)} each at {n}' for x, y, n in ends(line)])}"
        )
    ax.set(xlabel="tokens a second, each user", ylabel="tokens a second, in all", xlim=(0, None), ylim=(0, None))
    legend_below(fig, ax)
    return described(fig, f"Throughput against speed per user; the numbers are requests at once. {'; '.join(said)}.")


def budget(curves):
    """The paper's figure 8: draft tokens verified a request and step against requests at once.

    ``curves``: label -> {requests: mean number of scheduled draft tokens a request}.
    """
    fig, ax = picture()
    said = []
    for style, label, given in styled(some(curves, "batch sizes")):
        line = sorted(given.items())
        ax.plot(*zip(*line), **line_style(label, style))
        said.append(f"{label}: {listed([f'{number(y)} at {n:g}' for n, y in ends(line)])}")
    ax.set_xscale("log", base=2)
    numbers = sorted({n for given in curves.values() for n in given})
    ax.set_xticks(numbers, [str(n) for n in numbers])
    ax.set(xlabel="requests at once", ylabel="draft tokens verified a request", ylim=(0, None))
    legend_below(fig, ax)
    return described(fig, f"The verification budget by load. {'; '.join(said)}.")
