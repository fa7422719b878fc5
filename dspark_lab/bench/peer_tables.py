"""The tables of `dspark-lab bench peers`, from the cells of a Record alone."""

from rich.box import SIMPLE
from rich.table import Table

from dspark_lab.bench.tables import difference, equality, interval, number, of_kind


def peer_tables(cells):
    """A table a domain with every implementation, one of our limit, and the bars."""
    contests, limits = of_kind(cells, "contest"), of_kind(cells, "limit")
    return [
        *(contest_table(domain, cell) for (domain,), cell in contests.items()),
        *(row for cell in contests.values() for row in refusals_and_differences(cell)),
        limit_table(limits),
        *(bar_sentence(name, bar) for name, bar in cells["bars"].items()),
    ]


def contest_table(domain, cell):
    """One row an implementation, the fastest first, with our plain decoding and our best over it."""
    ours = {name.split(", ", 1)[1]: ratios for name, ratios in cell["ratios"].items()}
    columns = (f"{domain}, greedy", "at", "threads", "tokens/s", *(f"our {name}\nover it" for name in ours), "tokens")
    table = Table(*columns, title=f"Implementations on one pair, medians: {domain}", box=SIMPLE, padding=(0, 1, 0, 0))
    rows = {name: row for name, row in cell["rows"].items() if "setting" in row}
    for name, row in sorted(rows.items(), key=lambda item: -(item[1]["tokens_per_second"] or 0)):
        setting = "\n".join(f"{key} {value}" for key, value in row["setting"].items() if key != "mode") or "-"
        over = [interval(ratios[name]).replace(" ", "\n", 1) if name in ratios else "-" for ratios in ours.values()]
        rate = number(row["tokens_per_second"], digits=0)
        table.add_row(name, setting, str(row["threads"]), rate, *over, equality(row["differences"]))
    return table


def refusals_and_differences(cell):
    """Why rows could not take part, and where tokens were not those of plain decoding."""
    for name, row in cell["rows"].items():
        if "reason" in row:
            yield f"{name} cannot take part: {row['reason']}"
        yield from (f"{name}: {difference(found)}" for found in row.get("differences", []))


def limit_table(cells):
    """The share of the limit by domain, and the parts that make the limit, in milliseconds a round."""
    parts = list(next(iter(cells.values()), {"milliseconds": {}})["milliseconds"])
    table = Table("", *parts, "a round", "of the limit", title="DSpark and its limit, ms a round [95 %]", box=SIMPLE)
    for (domain,), cell in cells.items():
        ms = [f"{cell['milliseconds'][part]:.2f}" for part in parts]
        table.add_row(domain, *ms, f"{cell['round']:.2f}", interval(cell["share"]))
    return table


def bar_sentence(name, bar):
    """One bar in words."""
    if isinstance(bar, list):
        return f"{name}: {', '.join(bar) or 'nobody'}"
    return f"{name}: {'met' if bar['met'] else 'missed'}, {interval(bar, 3)} of {bar['bar']}" if bar else f"{name}: -"
