"""How much of the drafts is accepted, and where it ends: from Rounds and metrics."""

import numpy as np

from dspark_lab import metrics
from dspark_lab.plots.style import (
    BLACK,
    INK,
    STYLES,
    as_groups,
    bar_style,
    described,
    legend_below,
    listed,
    picture,
    some,
    styled,
    with_interval,
)

RATES = {
    "conditional": (metrics.conditional_acceptance, "accepted, given all before it were"),
    "survival": (metrics.survival, "this and all before it accepted"),
    "overlap": (metrics.overlap_by_position, "mean overlap of p and q, where verified"),
}
MOST_PANELS = 8


def accepted_lengths(groups, columns=3):
    """A histogram of accepted length a round for each group, beside the law of a constant rate of the same mean.

    ``groups``: label -> Rounds (or Rounds alone). Rounds whose draft was shorter, was not verified whole or stopped at
    a stop token are left out: they could not have run their course. The law is that of drafts whose every position is
    accepted with one probability, the one that gives the same mean: τ = j with α^(j-1) (1 - α), τ = γ + 1 with α^γ.
    """
    groups = {label: whole_rounds(rounds) for label, rounds in as_groups(groups).items()}
    rows, columns = -(-len(groups) // columns), min(len(groups), columns)
    size = (max(5.0, 3.2 * columns), 2.9 * rows + 0.3)
    fig, axes = picture(*size, rows, columns, sharey=True)
    axes = np.atleast_1d(axes).ravel()
    said = [draw_lengths(ax, label, *data) for ax, (label, data) in zip(axes, groups.items())]
    for ax in axes[len(groups) :]:
        ax.set_visible(False)
    axes[0].set_ylabel("share of rounds")
    legend_below(fig, axes[0])
    return described(fig, f"Accepted length a round, beside the law of a constant rate. {' '.join(said)}")


def whole_rounds(rounds):
    """The accepted lengths of the ``rounds`` that ran their course, the draft length, and how many were left out."""
    length = max(r.draft_length for r in rounds)
    kept = [r.accepted_length for r in rounds if r.scheduled == length and r.ending in ("bonus", "correction")]
    if not length or not kept:
        raise ValueError("no round verified a whole draft; give Rounds of a drafter, without a cap or a threshold")
    return np.array(kept), length, len(rounds) - len(kept)


def draw_lengths(ax, label, lengths, draft_length, left_out):
    """One panel of `accepted_lengths`, and a sentence on it."""
    possible = np.arange(1, draft_length + 2)
    shares = np.array([np.mean(lengths == n) for n in possible])
    law = constant_rate_law(lengths.mean(), draft_length)
    ax.bar(possible, shares, **bar_style("measured", STYLES[0]))
    ax.plot(possible, law, color=BLACK, marker="_", markersize=12, markeredgewidth=2, linestyle=":", label="same rate")
    mean = lengths.mean()
    ax.set(title=f"{label}: mean {mean:.2f}, {len(lengths)} rounds", xlabel="accepted length τ", xticks=possible)
    ax.title.set_fontsize(9)
    return (
        f"{label}: mean {mean:.2f} over {len(lengths)} rounds ({left_out} that could not run their course left out); "
        f"{shares[0]:.0%} gave 1 token where a constant rate would give {law[0]:.0%}, and {shares[-1]:.0%} gave "
        f"{possible[-1]} where it would give {law[-1]:.0%}."
    )


def constant_rate_law(mean, draft_length):
    """P(τ = 1 .. γ + 1), an array, when every position is accepted with one probability and the mean is ``mean``."""
    from scipy.optimize import brentq

    def law(rate):
        powers = rate ** np.arange(draft_length + 1)
        return np.append(powers[:-1] - powers[1:], 0) + np.append(np.zeros(draft_length), powers[-1])

    lengths = np.arange(1, draft_length + 2)
    if mean <= 1 or mean >= draft_length + 1:
        return law(float(mean > 1))
    return law(brentq(lambda rate: law(rate) @ lengths - mean, 0, 1))


def overlaps(rounds, bins=10):
    """A histogram of the overlap sum(min(p, q)) at each verified position, a panel a position.

    Positions behind a rejection are in it, as they were verified too. At most eight panels: 1, 2, 3, ... or evenly
    spread over a longer draft.
    """
    positions = range(1, max((r.scheduled for r in metrics.some(rounds)), default=0) + 1)
    if not positions:
        raise ValueError("nothing was drafted in these rounds, so they hold no overlap; give those of a drafter")
    chosen = sorted({positions[round(i)] for i in np.linspace(0, len(positions) - 1, MOST_PANELS)})
    columns = min(len(chosen), 4)
    rows = -(-len(chosen) // columns)
    fig, axes = picture(2.2 * columns + 0.6, 2.1 * rows + 0.3, rows, columns, sharex=True, sharey=True)
    axes, said = np.atleast_1d(axes).ravel(), []
    for ax, k in zip(axes, chosen):
        values = np.clip([r.overlap[k - 1] for r in rounds if r.scheduled >= k], 0, 1)
        ax.hist(values, bins=np.linspace(0, 1, bins + 1), weights=np.full(len(values), 1 / len(values)), **HISTOGRAM)
        ax.axvline(values.mean(), color=BLACK, linestyle="--")
        ax.set_title(f"position {k}: mean {values.mean():.2f}", fontsize=9)
        said.append(f"{values.mean():.2f} at {k}")
    for ax in axes[len(chosen) :]:
        ax.set_visible(False)
    fig.supxlabel("overlap of p and q (1 - total variation)", fontsize=9)
    fig.supylabel("share of rounds", fontsize=9)
    return described(fig, f"Histograms of the overlap of p and q by position. Means, dashed: {listed(said)}.")


HISTOGRAM = {"color": "#56B4E9", "edgecolor": INK, "linewidth": 0.6}


def suffix_decay(rounds, teacher_forced=None):
    """Three ways to see a draft decay along its positions, with 95 % intervals.

    Survival (accepted with all before it), conditional acceptance (given all before it were), and ``teacher_forced``:
    the acceptance at every position of texts whose earlier tokens are the target's own, as Means or Rates or plain
    numbers by position; None leaves it out. The conditional curve knows survivors only, which are the easy contexts.
    """
    curves = {
        "survival": points(metrics.survival(rounds)),
        "conditional, in rollouts": points(metrics.conditional_acceptance(rounds)),
    }
    if teacher_forced is not None:
        curves["teacher-forced"] = points(teacher_forced)
    return rate_figure(curves, "Acceptance along the draft", "rate, with 95 % interval")


def by_position(groups, rate="conditional"):
    """One rate by position for several groups of Rounds, with 95 % intervals.

    ``groups``: label -> Rounds. ``rate``: "conditional", "survival" or "overlap", as in `metrics`. A wrong tap or an
    anchor off by one shows here and nowhere else.
    """
    if rate not in RATES:
        raise ValueError(f"rate is {rate!r}; give one of {', '.join(map(repr, RATES))}")
    measure, meaning = RATES[rate]
    curves = {label: points(measure(rounds)) for label, rounds in as_groups(groups).items()}
    return rate_figure(curves, f"{rate.capitalize()} by position", meaning)


def points(rates):
    """``rates`` (Rates, Means or numbers, by position) as (position, estimate, low, high), low None where unknown."""
    return [
        (r.position, r.estimate, r.low, r.high) if hasattr(r, "estimate") else (k, float(r), None, None)
        for k, r in enumerate(rates, 1)
    ]


def rate_figure(curves, title, ylabel):
    """``curves``, label -> points, over the positions of a draft."""
    fig, ax = picture()
    said = []
    for style, label, curve in styled(some(curves, "verified positions")):
        with_interval(ax, curve, label, style)
        said.append(f"{label}: {listed([estimate for _, estimate, *_ in curve])}")
    longest = max(len(curve) for curve in curves.values())
    ax.set(xlabel="position k in the draft", ylabel=ylabel, ylim=(-0.03, 1.03), xticks=range(1, longest + 1))
    ax.set_title(title, fontsize=11)
    legend_below(fig, ax)
    return described(fig, f"{title}, from position 1 on. {'; '.join(said)}.")
