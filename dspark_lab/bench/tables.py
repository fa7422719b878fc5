"""The benchmarks' tables, from the cells of a Record alone."""

from rich.box import SIMPLE
from rich.table import Table

SHOWN = 7  # positions; the file has all


def acceptance_tables(cells):
    """Accepted length, acceptance by position, teacher-forced overlaps, what they come to, and the target's loss."""
    compared = cells["comparisons"]
    tables = [
        accepted_lengths(of_kind(cells, "rollouts")),
        rates("P(accepted | all before accepted); below it, how often asked", cells, "conditional_acceptance"),
        rates("P(accepted with all before); below it, how often asked", cells, "survival"),
        positions("Teacher-forced sum(min(p, q)) [95 %]", "overlaps", cells, "overlap"),
        positions("DSpark's lead over DFlash, teacher-forced [95 %]", "lead", compared),
        values("Fall of the overlap from position 1 to 4", of_kind(compared, "fall")),
        values("Accepted length, DSpark over DFlash", of_kind(compared, "gain")),
        target_table(of_kind(cells, "target")),
    ]
    return [table for table in tables if table.row_count]


def of_kind(cells, kind):
    """The cells whose names begin with ``kind``, by what follows it, split at the slashes."""
    return {tuple(name.split("/")[1:]): cell for name, cell in cells.items() if name.startswith(f"{kind}/")}


def accepted_lengths(cells):
    """Domains and temperatures down, modes across."""
    modes = list(dict.fromkeys(mode for _, mode, _ in cells))
    table = Table("domain", "t", *modes, title="Accepted length [95 %]", box=SIMPLE)
    for domain, t in dict.fromkeys((domain, t) for domain, _, t in cells):
        row = [cells.get((domain, mode, t)) for mode in modes]
        table.add_row(domain, t, *(interval(cell["accepted_length"]) if cell else "" for cell in row))
    return table


def rates(title, cells, field):
    """The Rates of rollouts' cells, by position, each above the number of trials."""
    table = by_position(title, 3)
    for name, cell in of_kind(cells, "rollouts").items():
        table.add_row(*name, *(f"{rate['estimate']:.3f}\n{rate['trials']}" for rate in cell[field][:SHOWN]))
    return table


def positions(title, kind, cells, field=None):
    """Estimates of one number a position, each above its interval."""
    cells = of_kind(cells, kind)
    table = by_position(title, len(next(iter(cells), ())))
    for name, cell in cells.items():
        found = cell[field] if field else cell
        each = zip(*(found[part][:SHOWN] for part in ("estimate", "low", "high")))
        table.add_row(*name, *("-" if None in x else f"{x[0]:.3f}\n{short(x[1])}-{short(x[2])}" for x in each))
    return table


def by_position(title, names):
    """A table whose rows are told by so many ``names``, with a column for each of the first positions."""
    return Table(*[""] * names, *map(str, range(1, SHOWN + 1)), title=title, box=SIMPLE, padding=(0, 1, 0, 0))


def values(title, cells):
    """One estimate a row."""
    table = Table("", "[95 %]", title=title, box=SIMPLE)
    for name, cell in cells.items():
        table.add_row(" ".join(name), interval(cell, 3))
    return table


def target_table(cells):
    """The target on held-out answers, by domain."""
    table = Table(
        "domain", "bits per byte", "perplexity a token", "answers", title="The target on held-out answers", box=SIMPLE
    )
    for (domain,), cell in cells.items():
        numbers = interval(cell["bits_per_byte"], 3), interval(cell["perplexity"], 3), str(cell["answers"])
        table.add_row(domain, *numbers)
    return table


def speed_tables(cells):
    """Ratios of speed, and below them which settings were chosen and where greedy tokens differed."""
    columns = ("domain", "t", "a over b", "times as fast", "tokens/s", "prompts", "tokens")
    table, notes = Table(*columns, title="Speed, medians [95 %]", box=SIMPLE), []
    for name, cell in cells.items():
        kind, domain, *rest = name.split("/")
        names = [side["name"].split()[0] for side in cell["sides"]]
        table.add_row(
            domain,
            rest[1] if kind == "mode" else "0",
            "\nover ".join(names),
            interval(cell["ratio"], 3).replace(" ", "\n", 1),
            "\n".join(f"{rate:.0f}" for rate in cell["tokens_per_second"]),
            str(cell["ratio"]["prompts"]),
            equality(cell["differences"]),
        )
        chosen = " and ".join(f"{side['name']} on {side['threads']} BLAS thread(s)" for side in cell["sides"])
        notes += [f"{name}: {chosen}.", *(f"{name}: {difference(d)}" for d in cell["differences"] or [])]
    return [table, *notes]


def equality(differences):
    """Whether greedy tokens were equal, in a word or two."""
    if differences is None:
        return "same law"
    return f"{len(differences)} differ" if differences else "equal"


def difference(found):
    """One difference as a sentence."""
    verdict = "a tie to within float error" if found["tie"] else "no tie"
    return (
        f"prompt {found['prompt'] + 1} differs from token {found['position'] + 1} on, where the target's two largest "
        f"logits are {found['margin']:.2g} apart, {verdict}."
    )


def calibration_tables(cells):
    """Temperatures, what they do by domain, temperature and position, and which bars are met."""
    fitted = cells["temperatures"]
    chosen = Table("", *map(str, range(1, len(next(iter(fitted.values()))) + 1)), title="Temperatures", box=SIMPLE)
    for key, temperatures in fitted.items():
        chosen.add_row(key, *(f"{t:.2f}" for t in temperatures))
    judged = [judged_table(*name, cell) for name, cell in of_kind(cells, "judged").items()]
    verdicts = [
        f"{name}: {'met' if bar['met'] else 'missed'} ({', '.join(f'{figure:.4f}' for figure in bar['figures'])})"
        for name, bar in cells["bars"].items()
    ]
    return [chosen, *judged, *verdicts]


def judged_table(domain, temperature, cell):
    """One domain at one temperature: expected calibration errors in per cent, before > after, and how well it ranks."""
    title = f"{domain} at temperature {temperature}: {cell['rounds']} rounds of {cell['prompts']} prompts"
    columns = ("", "reached", "ECE of c, %", "floor", "ECE of a, %", "floor", "AUC of c", "of overlap", "Brier of a")
    table = Table(*columns, title=title, box=SIMPLE, padding=(0, 1, 0, 0))
    c, a = cell["conditional"], cell["cumulative"]
    for k, reached in enumerate(c["after"]["trials"]):
        last = k == len(c["after"]["trials"]) - 1
        row = [change(c, "ece", k, 100, 2), number(c["after"]["floor"][k], 100, 2)]
        row += [change(a, "ece", k, 100, 2), number(a["after"]["floor"][k], 100, 2)]
        row += [number(c["after"]["auc"][k]), number(cell["overlap_auc"][k]), change(a, "brier", k)]
        table.add_row("all" if last else str(k + 1), str(reached), *row, style="bold" if last else None)
    return table


def change(both, field, k, scale=1, digits=3):
    """``field`` at position ``k`` before and after."""
    return " > ".join(number(both[when][field][k], scale, digits) for when in ("before", "after"))


def number(value, scale=1, digits=3):
    """``value`` times ``scale`` to so many ``digits``, or a dash for None."""
    return "-" if value is None else f"{scale * value:.{digits}f}"


def batch_tables(cells):
    """Requests down, ways of scheduling across: all users' tokens a second, one user's, over plain, and the budget."""
    titles = {
        "throughput": "Tokens a second, all requests together [95 %]",
        "per_user": "Tokens a second and user [95 %]",
        "over_plain": "Throughput over plain decoding's [95 %]",
        "scheduled": "Drafted tokens verified, a request and pass [95 %]",
        "computed": "Tokens computed, a request and pass, padding among them [95 %]",
    }
    ways = list(next(iter(cells.values()))["ways"])
    tables = []
    for field, title in titles.items():
        table = Table("requests", *ways, title=title, box=SIMPLE)
        for name, cell in cells.items():
            table.add_row(name.split("/")[-1], *(interval(cell["ways"][way][field]) for way in ways))
        tables.append(table)
    return tables


def profile_table(name, cell):
    """The parts of a round, largest first."""
    table = Table("part", "ms a round", "%", title=f"Where a round goes: {name.replace('/', ', ')}", box=SIMPLE)
    for part, ms in sorted(cell["milliseconds"].items(), key=lambda item: -item[1]):
        table.add_row(part, f"{ms:.3f}", f"{100 * ms / cell['round']:.1f}")
    table.add_row("a round", f"{cell['round']:.3f}", "100.0", style="bold")
    table.add_row("a round, nothing waited for", f"{cell['unwatched_round']:.3f}", "")
    return table


def rollback_table(name, cells):
    """What undoing a rejection costs, by tokens kept."""
    columns = ("tokens kept", "verify, ms", "roll back, ms", "% of verify", "pass over the kept, ms")
    table = Table(*columns, title=f"Undoing a rejection: {name}", box=SIMPLE)
    for cell in cells:
        verify, rollback, again = (f"{cell[part]:.2f}" for part in ("verify", "rollback", "again"))
        share = f"{100 * cell['rollback'] / cell['verify']:.1f}"
        table.add_row(str(cell["kept"]), verify, rollback, share, again)
    return table


def turns_table(cells):
    """Milliseconds to a follow-up turn's first tokens, by mode and number of BLAS threads."""
    columns = ("mode", "threads", "cold ms", "warm ms", "times as quick", "first tokens")
    table = Table(*columns, title="A follow-up turn's first tokens, medians; ratio of the sums [95 %]", box=SIMPLE)
    for (mode, threads), cell in of_kind(cells, "turns").items():
        times = (f"{cell['milliseconds'][side]:.1f}" for side in ("cold", "warm"))
        same = f"{cell['differences']} differ" if cell["differences"] else "equal"
        table.add_row(mode, threads, *times, interval(cell["ratio"], 1), same)
    return table


def short(number):
    """Two decimals, without the zero before the point."""
    return f"{number:.2f}".replace("0.", ".", 1)


def interval(cell, digits=2):
    """``estimate [low, high]``, or a dash where there was nothing to measure."""
    if None in (cell["estimate"], cell["low"], cell["high"]):
        return "-"
    return f"{cell['estimate']:.{digits}f} \\[{cell['low']:.{digits}f}, {cell['high']:.{digits}f}]"
