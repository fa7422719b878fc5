"""dspark-lab bench calibration."""

from functools import partial
from typing import Annotated

import typer

from dspark_lab.bench.common import (
    TRACES,
    Domains,
    Drafters,
    From,
    MaxTokens,
    Mode,
    Model,
    Out,
    finish,
    load,
    pick_threads,
    progress,
    split,
    start,
)


def calibration(
    model: Model = None,
    drafter: Drafters = None,
    source: From = None,
    domains: Domains = "prose,code,math",
    mode: Mode = None,
    rounds: Annotated[
        int, typer.Option(min=1, help="Rounds a domain and temperature, at least, to fit and to judge.")
    ] = 5000,
    max_tokens: MaxTokens = 64,
    save: Annotated[
        bool, typer.Option("--save", help="Write the temperatures into the drafter's config.json.")
    ] = False,
    out: Out = TRACES / "calibration.json",
):
    """Whether confidence is right, and temperatures that make it so, at temperature 1 and greedily.

    Temperatures are fitted on one half of the held-out prompts and judged on the other. The rounds, which are many, are
    kept in the cache folder, so that an interrupted run goes on; --out gets what they come to. Texts are short, for
    rounds of one text are alike: many prompts say more than many rounds of a few.
    """
    from dspark_lab.bench.calibration import assess, bars, evidence_of, prompts_apart, uncalibrated
    from dspark_lab.bench.tables import calibration_tables
    from dspark_lab.calibrate import LISTS, fit_temperatures, save_calibration

    pair = load(model, drafter, source)
    mode = pair.resolve(mode)
    uncalibrated(pair.drafter(mode))
    asked = {domain: prompts_apart(pair, domain, source) for domain in split(domains)}
    pick_threads(pair, mode, {domain: parts[0] for domain, parts in asked.items()})
    fit, judge = (gather_rounds(pair, mode, asked, part, rounds, max_tokens) for part in ("fit", "judge"))
    record = start(out, pair, mode=mode, domains=split(domains), rounds=rounds, max_tokens=max_tokens)
    lists = {key: fit_temperatures(*(evidence_of(fit[domain, t]) for domain in asked)) for key, t in LISTS.items()}
    record.put("temperatures", lists)
    cells = {(domain, t): assess(judge[domain, t], lists[key]) for key, t in LISTS.items() for domain in asked}
    for (domain, t), cell in cells.items():
        record.put(f"judged/{domain}/{t:g}", cell)
    record.put("bars", bars(cells))
    if save:
        save_calibration(pair.folders[mode], lists)
    finish(record, calibration_tables(record.cells))


def gather_rounds(pair, mode, asked, part, rounds, max_tokens):
    """(domain, temperature) -> a cell of rounds on the prompts of ``part``, "fit" or "judge", as far as cached."""
    from dspark_lab.bench.calibration import gather
    from dspark_lab.calibrate import LISTS
    from dspark_lab.folders import cache_folder

    record = start(
        cache_folder() / f"rounds-{pair.name}-{mode}-{part}.json", pair, rounds=rounds, max_tokens=max_tokens
    )
    for domain, parts in asked.items():
        prompts = parts[part == "judge"]
        for t in LISTS.values():
            with progress(f"{domain}: rounds to {part} at temperature {t:g}", rounds) as tick:
                measure = partial(gather, pair, mode, prompts, t, rounds, max_tokens, tick)
                record.cell(f"{domain}/{t:g}", measure)
    return {(domain, t): record.cells[f"{domain}/{t:g}"] for domain in asked for t in LISTS.values()}
