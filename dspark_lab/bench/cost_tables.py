"""The tables of `bench cost` and `bench auto`, from the cells of a Record alone."""

from rich.box import SIMPLE
from rich.table import Table

from dspark_lab.bench.tables import interval, of_kind
from dspark_lab.curves import Curve


def cost_tables(cells):
    """Medians in milliseconds, with quartiles, and the line where there is one."""
    curves = {"verify, by tokens": cells["verify"]} if "verify" in cells else {}
    for name, cell in cells.items():
        if name.startswith("rounds/"):
            for part, by in (("draft", "draft length"), ("verify", "tokens"), ("rest", "draft length")):
                curves[f"{name[7:]}: {part}, by {by}"] = cell[part]
    return [curve_table(name, Curve.from_dict(cell)) for name, cell in curves.items()]


def curve_table(name, curve):
    """One curve, a count a column."""
    line = curve.line
    found = f"{1e3 * line.intercept:.2f} ms + {1e3 * line.slope:.3f} ms each" if line else "no line"
    shown = [i for i, n in enumerate(curve.counts) if n <= 8 or n % 4 == 0]
    table = Table(
        *(str(curve.counts[i]) for i in shown), title=f"ms, {name}: {found}", box=SIMPLE, padding=(0, 1, 0, 0)
    )
    for row in (curve.low, curve.seconds, curve.high):
        table.add_row(*(f"{1e3 * row[i]:.2f}" for i in shown), style="bold" if row is curve.seconds else None)
    return table


def auto_tables(cells):
    """Tokens a second by cap, measured above predicted; below, what the prediction and "auto" came to."""
    caps = list(dict.fromkeys(cap for cell in of_kind(cells, "auto").values() for cap in cell["caps"]))
    speeds = Table("domain", "mode", "t", *map(str, caps), title="Tokens/s by cap, predicted below", box=SIMPLE)
    names = ("error", "cap", "cap over the best", "auto over plain", "auto over the best cap", "ceiling")
    found = Table("domain", "mode", "t", *names, title='Prediction, and max_draft "auto" [95 %]', box=SIMPLE)
    for name, cell in of_kind(cells, "auto").items():
        rates = zip(cell["measured"], cell["predicted"])
        speeds.add_row(*name, *(f"{measured['estimate']:.0f}\n{predicted:.0f}" for measured, predicted in rates))
        found.add_row(
            *name,
            f"{cell['median_error']:.1%}",
            f"{cell['predicted_cap']} for {cell['best_cap']}",
            interval(cell["predicted_over_best_cap"], 3),
            *(interval(cell[ratio]["ratio"], 3) for ratio in ("auto_over_plain", "auto_over_best_cap")),
            f"{cell['ceiling']:.2f}",
        )
    means = [
        f"{mode} at temperature {t}: auto over plain decoding, geometric mean over domains, {interval(cell, 3)}"
        for (mode, t), cell in of_kind(cells, "domains").items()
    ]
    return [speeds, found, *means]
