"""What the confidence head knows: reliability, separation, and the threshold that acts on it."""

import numpy as np

from dspark_lab import calibrate
from dspark_lab.plots.style import (
    GREY,
    as_groups,
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


def reliability(panels, bins=10, columns=4):
    """Reliability diagrams: the accepted share against the predicted one, in ``bins`` equal bins, a panel each.

    ``panels``: title -> (predicted, happened), two equally long lists of probabilities and of 0 or 1; or title ->
    {series: (predicted, happened)}, to draw before and after in one panel. A point's size grows with its share of the
    predictions; its 95 % interval is Wilson's. The expected calibration error (ECE) of each is in the description.
    """
    some(panels, "predictions")
    rows, columns = -(-len(panels) // columns), min(len(panels), columns)
    fig, axes = picture(max(4.2, 2.5 * columns + 0.5), 2.7 * rows + 0.4, rows, columns, sharex=True, sharey=True)
    axes, said = np.atleast_1d(axes).ravel(), []
    for ax, (title, given) in zip(axes, panels.items()):
        ax.plot([0, 1], [0, 1], color=GREY, linewidth=1)
        errors = []
        for style, label, pair in styled(given if isinstance(given, dict) else {"": given}):
            draw_reliability(ax, style, label, calibrate.reliability(*judged(*pair), bins))
            error = calibrate.expected_calibration_error(*judged(*pair), bins)
            errors.append(f"{label + ' ' if label else ''}{error:.1%}")
        ax.set_title(f"{title}\nECE {listed(errors)}", fontsize=8)
        said.append(f"{title}: ECE {listed(errors)}")
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    for ax in axes[max(0, len(panels) - columns) : len(panels)]:  # the lowest of each column
        ax.set_xlabel("predicted", fontsize=9)
        ax.tick_params(labelbottom=True)
    if isinstance(next(iter(panels.values())), dict):
        legend_below(fig, axes[0])
    fig.supylabel("accepted", fontsize=9)
    return described(fig, f"Reliability diagrams, on the diagonal if calibrated. {'; '.join(said)}.")


def judged(scores, happened):
    """``scores`` and what ``happened`` as arrays of floats, as `calibrate` takes them. Raises ValueError if unequal."""
    scores, happened = np.asarray(scores, float), np.asarray(happened, float)
    if scores.shape != happened.shape or scores.ndim != 1 or not len(scores):
        raise ValueError(f"there are {scores.shape} scores of {happened.shape} outcomes; give two equal lists")
    return scores, happened


def draw_reliability(ax, style, label, found):
    """One series of a reliability diagram: the Bins ``found``."""
    total = sum(one.trials for one in found)
    with_interval(ax, [(one.score, one.outcome, one.low, one.high) for one in found], label, style)
    x, y, size = zip(*[(one.score, one.outcome, 20 + 300 * one.trials / total) for one in found])
    ax.scatter(x, y, size, alpha=0.3, color=style["color"])
    ax.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")


def separation(groups):
    """ROC curves: how well a score tells accepted from rejected, whatever its scale; with the area under each (AUC).

    ``groups``: label -> (scores, happened), as in `reliability`.
    """
    fig, ax = picture(4.6, 4.2)
    said = []
    for style, label, pair in styled(some(groups, "scores")):
        scores, happened = judged(*pair)
        area = calibrate.auc(scores, happened)
        if np.isnan(area):
            raise ValueError("all outcomes are alike, so nothing can be told apart; give accepted and rejected ones")
        x, y = roc(scores, happened)
        ax.plot(x, y, **{**line_style(f"{label}: {area:.2f}", style), "markevery": max(1, len(x) // 6)})
        said.append(f"{label} {area:.3f}")
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=1)
    ax.set(xlabel="share of the rejected above the threshold", ylabel="share of the accepted above it", aspect="equal")
    ax.legend(frameon=False, fontsize=9, title="area under the curve")
    return described(fig, f"ROC curves of scores for acceptance; a coin would have .5. Areas: {listed(said)}.")


def roc(scores, happened):
    """The ROC curve of ``scores``: false and true positive rates from 0 to 1 as the threshold falls, ties together."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    hits, misses = np.cumsum(happened[order])[last], np.cumsum(1 - happened[order])[last]
    return np.append(0, misses / misses[-1]), np.append(0, hits / hits[-1])


def threshold_sweep(sweeps):
    """The paper's figure 5: acceptance rate against threshold, with accepted length and tokens a second below it.

    ``sweeps``: label -> {threshold: Rounds}. The acceptance rate is the paper's: tokens committed over tokens verified,
    the target's own in both (`metrics.acceptance_rate`).
    """
    from dspark_lab import metrics

    measures = (
        ("acceptance rate,\nown token counted", metrics.acceptance_rate),
        ("mean accepted\nlength τ", metrics.mean_accepted_length),
        ("tokens\na second", metrics.tokens_per_second),
    )
    fig, axes = picture(6.4, 6.2, 3, 1, sharex=True)
    said = []
    for ax, (name, measure) in zip(axes[:, 0], measures):
        for style, label, sweep in styled(as_groups(sweeps)):
            line = [(threshold, measure(rounds)) for threshold, rounds in sorted(sweep.items())]
            ax.plot(*zip(*line), **line_style(label, style))
            said.append(
                f"{label}, {' '.join(name.split())}: {listed([f'{number(y)} at {x:g}' for x, y in ends(line)])}"
            )
        ax.set_ylabel(name)
    legend_below(fig, axes[0, 0])
    axes[2, 0].set_xlabel("confidence threshold")
    return described(fig, f"Threshold sweep. {'; '.join(said)}.")


def ends(line):
    """The first, highest and last points of ``line``, each once, in order of x."""
    return sorted({line[0], max(line, key=lambda point: point[1]), line[-1]})


def order(before, after, labels=("as the head says", "after temperature scaling")):
    """How scaling changes whose token is verified first: survivals on two scales, joined by a line.

    ``before`` and ``after``: request and position (any label) -> survival. Where two lines cross, the order changed.
    """
    if before.keys() != after.keys() or len(before) < 2:
        raise ValueError("before and after name different tokens, or fewer than two; give the same ones in both")
    fig, ax = picture(5.4, 3.8)
    for style, name, at in styled(before):
        ax.plot([0, 1], [at, after[name]], **line_style(name, style))
        ax.annotate(
            f"{name} {after[name]:.2f}", (1, after[name]), (8, 0), textcoords="offset points", va="center", fontsize=8
        )
        ax.annotate(
            f"{at:.2f}",
            (0, at),
            (-8, 0),
            textcoords="offset points",
            va="center",
            ha="right",
            fontsize=8,
        )
    ax.set(xlim=(-0.25, 1.6), ylabel="survival")
    ax.set_xticks([0, 1], labels)
    ax.spines["bottom"].set_visible(False)
    ranked = [listed(sorted(values, key=values.get, reverse=True)) for values in (before, after)]
    verb = "keeps the order" if ranked[0] == ranked[1] else "changes the order"
    return described(fig, f"Scaling {verb}. Before, from the surest: {ranked[0]}; after: {ranked[1]}.")
