"""Distributions as bars: p, q, what they share, what is left; and laws beside one another."""

import numpy as np

from dspark_lab.plots.style import (
    BLACK,
    BLUE,
    GREEN,
    PURPLE,
    RED,
    bar_style,
    described,
    legend_below,
    listed,
    number,
    picture,
    reach,
    shown,
    some,
    styled,
)


def accept_rule(p, q, words=None):
    """p, q, min(p, q) and the residual of one position, as four rows of bars over the tokens.

    ``p`` and ``q``: distributions (vocab,); ``words``: the tokens' names. The share of min(p, q) is the overlap, the
    chance to accept; the residual norm(max(0, p - q)) is what a rejection draws from.
    """
    p, q = as_law(p, "p"), as_law(q, "q")
    if p.shape != q.shape:
        raise ValueError(f"p has {len(p)} tokens and q {len(q)}; give two distributions over the same tokens")
    words = words_for(p, words)
    shared, lacking = np.minimum(p, q), np.maximum(p - q, 0)
    left = lacking / lacking.sum() if lacking.sum() > 0 else p
    fig, axes = picture(max(6.4, 0.55 * len(p) + 2), 5.2, 4, 1, sharex=True, sharey=True)
    looks = (
        ("p", p, BLUE, ""),
        ("q", q, RED, "///"),
        ("min(p, q)", shared, GREEN, "..."),
        ("residual", left, PURPLE, "xx"),
    )
    for ax, (name, values, colour, hatch) in zip(axes[:, 0], looks):
        ax.bar(range(len(p)), values, color=colour, hatch=hatch, edgecolor="white")
        ax.set_ylabel(name, rotation=0, ha="right", va="center")
    axes[2, 0].step(np.arange(len(p) + 1) - 0.5, [*p, p[-1]], where="post", color=BLUE, linewidth=1.2)
    axes[2, 0].step(np.arange(len(p) + 1) - 0.5, [*q, q[-1]], where="post", color=RED, linewidth=1.2, linestyle="--")
    axes[3, 0].set_xticks(range(len(p)), words)
    overlap = shared.sum()
    fig.suptitle(f"overlap {overlap:.3f} = 1 - total variation {1 - overlap:.3f}", fontsize=11)
    return described(
        fig,
        f"Bars over {len(p)} tokens: p, q, what they share, and the residual. The overlap, the chance to accept, is "
        f"{overlap:.3f}; the total variation is {1 - overlap:.3f}. The residual is {list_of(words, left)}.",
    )


def list_of(words, law, most=5):
    """The ``most`` likely of ``words`` under ``law``, in a sentence."""
    order = np.argsort(-law, kind="stable")[:most]
    return listed([f"{words[i]} {law[i]:.2f}" for i in order if law[i] > 0])


def as_law(values, name):
    """``values`` as a float64 distribution (vocab,). Raises ValueError if it is none."""
    law = np.array(values, np.float64)
    if law.ndim != 1 or (law < 0).any() or abs(law.sum() - 1) > 1e-3:
        raise ValueError(
            f"{name} has shape {law.shape} and sum {law.sum():.4g}; give one distribution, which sums to 1"
        )
    return law


def words_for(law, words):
    """The names of the tokens of ``law``: ``words``, or their numbers."""
    words = [str(i) for i in range(len(law))] if words is None else [shown(str(word)) for word in words]
    if len(words) != len(law):
        raise ValueError(f"there are {len(words)} words for {len(law)} tokens; give one for each")
    return words


def laws(series, words=None, intervals=None):
    """Distributions over the same tokens (or outcomes) side by side: ``series`` is label -> probabilities (n,).

    ``intervals``: label -> [(low, high), ...], for those that were counted rather than computed. The description gives
    each one's total variation from the first.
    """
    series = {label: as_law(law, label) for label, law in some(series, "probabilities").items()}
    first = next(iter(series.values()))
    words, width = words_for(first, words), 0.8 / len(series)
    fig, ax = picture(max(6.4, 0.7 * len(first) + 1.5), 3.4)
    for i, (style, label, law) in enumerate(styled(series)):
        x = np.arange(len(law)) + (i - (len(series) - 1) / 2) * width
        ax.bar(x, law, width * 0.94, **bar_style(label, style))
        if (bounds := (intervals or {}).get(label)) is not None:
            ax.errorbar(x, law, reach(law, *zip(*bounds)), fmt="none", color=BLACK, capsize=3)
    ax.set(ylabel="probability")
    ax.set_xticks(range(len(words)), words)
    legend_below(fig, ax)
    told = [f"{label} is {list_of(words, law)}" for label, law in series.items()]
    away = [f"{label} {np.abs(law - first).sum() / 2:.3f}" for label, law in series.items() if law is not first]
    distance = f" Total variation from {next(iter(series))}: {listed(away)}." if away else ""
    return described(fig, f"Laws side by side: {'; '.join(told)}.{distance}")


def pair_laws(series, words):
    """Laws of two tokens in a row as squares with their probability: ``series`` is label -> (n, n) array.

    A row is the first token, a column the second. Where drafted positions are independent, pairs that the target never
    writes get the mass of two words that are each likely alone: they collide.
    """
    fig, axes = picture(3.1 * len(some(series, "a law")) + 0.4, 3.3, 1, len(series), sharey=True)
    words, said = [shown(word) for word in words], []
    for ax, (label, law) in zip(np.atleast_1d(axes).ravel(), series.items()):
        law = np.asarray(law, np.float64)
        ax.imshow(law, cmap="Blues", vmin=0, vmax=1)
        for (i, j), value in np.ndenumerate(law):
            if value >= 0.005:
                ax.text(j, i, number(value), ha="center", va="center", color="white" if value > 0.5 else "black")
        ax.grid(visible=False)
        ax.set_title(label, fontsize=10)
        ax.set_xticks(range(len(words)), words, rotation=30)
        ax.set_yticks(range(len(words)), words)
        ax.set_xlabel("second token")
        found = [
            (value, f"“{words[i]} {words[j]}” {value:.2f}") for (i, j), value in np.ndenumerate(law) if value >= 0.005
        ]
        said.append(f"{label}: {listed([text for _, text in sorted(found, reverse=True)[:6]])}")
    np.atleast_1d(axes).ravel()[0].set_ylabel("first token")
    return described(fig, f"Laws of two tokens in a row. {'; '.join(said)}.")
