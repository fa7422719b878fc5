"""dspark-lab bench cost | auto: what rounds cost here, and whether draft lengths are chosen well."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from dspark_lab.bench.common import (
    TRACES,
    Domains,
    Drafters,
    From,
    MaxTokens,
    Model,
    Out,
    Prompts,
    Temperatures,
    finish,
    load,
    progress,
    split,
    start,
)

Modes = Annotated[str | None, typer.Option(help="Separated by commas; all that the pair has if left out.")]


def cost(
    model: Model = None,
    shape: Annotated[str | None, typer.Option(help="Random weights of a shape: qwen3-4b, qwen3-8b, tiny.")] = None,
    bits: Annotated[int, typer.Option(help="With --shape: the target's precision, 16, 8 or 4.")] = 16,
    modes: Modes = None,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of the longest pass.")] = 32,
    context: Annotated[int, typer.Option(min=1, help="Tokens before it.")] = 256,
    repeats: Annotated[int, typer.Option(min=3, help="Times that everything is measured.")] = 15,
    out: Annotated[
        Path | None, typer.Option(help="The JSON file to write; in the package's traces/cost/ if left out.")
    ] = None,
):
    """What a pass over 1, 2, ... tokens costs on this machine, and a round of each mode by its draft length."""
    import dspark_lab as lab
    from dspark_lab.bench.cost_tables import cost_tables
    from dspark_lab.bench.record import Record, make_stamp
    from dspark_lab.bench.shapes import random_pair
    from dspark_lab.cost import precision, slug, time_rounds, time_verifying

    if shape and model:
        raise ValueError("give --model or --shape, not both")
    pair = random_pair(shape, bits) if shape else lab.load_pair(model)
    stamp = make_stamp(pair)
    settings = {"model": pair.name, "precision": precision(pair.target.model), "context": context, "repeats": repeats}
    name = slug(pair.name, settings["precision"], stamp["device"], stamp["blas"])
    record = Record(out or TRACES / "cost" / f"{name}.json", stamp, settings)
    options = {"context": context, "repeats": repeats}
    passes = range(1, tokens + 1)
    record.cell("verify", lambda: time_verifying(pair.target, passes, **options).to_dict())
    for mode in split(modes) or [mode for mode in pair.modes if mode != "baseline"]:
        record.cell(f"rounds/{mode}", lambda mode=mode: time_rounds(pair, mode, **options).to_dict())
    finish(record, cost_tables(record.cells))


def auto(
    model: Model = None,
    drafter: Drafters = None,
    source: From = None,
    domains: Domains = "prose,code,math",
    modes: Modes = None,
    temperatures: Temperatures = "0",
    caps: Annotated[str, typer.Option(help="Caps to sweep, separated by commas.")] = "1,2,3,4,5,6,7",
    prompts: Prompts = 20,
    max_tokens: MaxTokens = 128,
    out: Out = TRACES / "auto.json",
):
    """Predicted against measured speed at every cap, and max_draft "auto" against the best cap and plain decoding."""
    from dspark_lab.bench.auto import contest, over_domains
    from dspark_lab.bench.cost_tables import auto_tables
    from dspark_lab.bench.prompts import heldout_prompts

    pair = load(model, drafter, source)
    modes = split(modes) or [mode for mode in pair.modes if mode != "baseline"]
    caps, temperatures = [int(cap) for cap in split(caps)], [float(t) for t in split(temperatures)]
    asked = {domain: heldout_prompts(domain, prompts, source) for domain in split(domains)}
    record = start(out, pair, prompts=prompts, max_tokens=max_tokens, caps=caps)
    for mode in modes:
        threads = threads_and_costs(pair, mode, next(iter(asked.values()))[0])
        own = [cap for cap in caps if cap <= pair.drafter(mode).draft_length]
        for t in temperatures:
            for domain, some in asked.items():
                with progress(f"{domain}: {mode} at temperature {t:g}", len(some)) as tick:
                    measure = partial(contest, pair, mode, some, own, threads, t, max_tokens, tick)
                    record.cell(f"auto/{domain}/{mode}/{t:g}", measure)
            cells = [record.cells[f"auto/{domain}/{mode}/{t:g}"] for domain in asked]
            record.put(f"domains/{mode}/{t:g}", over_domains(cells))
    finish(record, auto_tables(record.cells))


def threads_and_costs(pair, mode, prompt):
    """The OpenBLAS threads on which plain decoding and ``mode`` go fastest; the mode's costs on them, measured anew."""
    from dspark_lab.cost import measure_costs
    from dspark_lab.race import WARM_UP_TOKENS, warm_up

    threads = [warm_up(pair, prompt, name, {"max_tokens": WARM_UP_TOKENS}) for name in ("baseline", mode)]
    measure_costs(pair, mode, again=True)  # for "auto", on the threads that were set last
    return threads
