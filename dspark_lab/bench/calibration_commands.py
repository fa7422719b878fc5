"""dspark-lab bench calibration."""

from dataclasses import replace
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
    save: Annotated[bool, typer.Option("--save", help="Write the calibration into the drafter's config.json.")] = False,
    out: Out = TRACES / "calibration.json",
):
    """Whether confidence is right, and what makes it so, at temperature 1 and greedily.

    Temperatures, and for greedy drafts weights in the place of the head's own, are fitted on one half of the held-out
    prompts and judged on the other. The rounds, which are many, are kept in the cache folder, so that an interrupted
    run goes on; --out gets what they come to. Texts are short, for rounds of one text are alike: many prompts say more
    than many rounds of a few.
    """
    from dspark_lab.bench.calibration import assess, bars, evidence_of, prompts_apart, uncalibrated
    from dspark_lab.bench.tables import calibration_tables
    from dspark_lab.calibrate import LISTS, WEIGHTS, fit_temperatures, save_calibration

    pair = load(model, drafter, source)
    mode = pair.resolve(mode)
    uncalibrated(pair.drafter(mode))
    apart = {domain: prompts_apart(pair, domain, source) for domain in split(domains)}
    asked = {part: {domain: own[i] for domain, own in apart.items()} for i, part in enumerate(("fit", "judge"))}
    pick_threads(pair, mode, asked["fit"])
    kept = {part: rounds_record(pair, mode, part, rounds, max_tokens) for part in asked}
    weights = weigh(kept["fit"], pair, mode, asked["fit"], rounds, max_tokens)
    fit, judge = (gather_rounds(kept[part], pair, mode, asked[part], rounds, max_tokens) for part in asked)
    record = start(out, pair, mode=mode, domains=split(domains), rounds=rounds, max_tokens=max_tokens)
    lists = {key: fit_temperatures(*(evidence_of(fit[domain, t]) for domain in apart)) for key, t in LISTS.items()}
    record.put("temperatures", lists)
    cells = {(domain, t): assess(judge[domain, t], lists[key]) for key, t in LISTS.items() for domain in apart}
    for (domain, t), cell in cells.items():
        record.put(f"judged/{domain}/{t:g}", cell)
    record.put("bars", bars(cells))
    if save:
        save_calibration(pair.folders[mode], {WEIGHTS: weights, **lists})
    finish(record, calibration_tables(record.cells))


def rounds_record(pair, mode, part, rounds, max_tokens):
    """The file in the cache folder of what is gathered on the prompts of ``part``, "fit" or "judge"."""
    from dspark_lab.folders import cache_folder

    return start(cache_folder() / f"rounds-{pair.name}-{mode}-{part}.json", pair, rounds=rounds, max_tokens=max_tokens)


def weigh(record, pair, mode, prompts, rounds, max_tokens):
    """The weights of greedy confidence, fitted on ``prompts`` (domain -> prompts) or kept; the drafter gets them."""
    from dspark_lab.bench.calibration import WEIGHT_ROUNDS, greedy_weights
    from dspark_lab.calibrate import WEIGHTS

    with progress("rounds to weigh greedy confidence by", WEIGHT_ROUNDS * rounds * len(prompts)) as tick:
        weights = record.cell(WEIGHTS, partial(greedy_weights, pair, mode, prompts, rounds, max_tokens, tick))
    drafter = pair.drafter(mode)
    drafter.config = replace(drafter.config, **{WEIGHTS: tuple(weights)})
    return weights


def gather_rounds(record, pair, mode, prompts, rounds, max_tokens):
    """(domain, temperature) -> a cell of rounds on ``prompts`` (domain -> prompts), as far as they are not kept."""
    from dspark_lab.bench.calibration import gather
    from dspark_lab.calibrate import LISTS

    for domain, own in prompts.items():
        for t in LISTS.values():
            with progress(f"{domain}: rounds at temperature {t:g}", rounds) as tick:
                measure = partial(gather, pair, mode, own, t, rounds, max_tokens, tick)
                record.cell(f"{domain}/{t:g}", measure)
    return {(domain, t): record.cells[f"{domain}/{t:g}"] for domain in prompts for t in LISTS.values()}
