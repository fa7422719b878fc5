"""dspark-lab bench peers."""

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from dspark_lab.bench.common import (
    TRACES,
    Domains,
    From,
    MaxTokens,
    Model,
    Out,
    Prompts,
    apart,
    finish,
    load,
    pick_threads,
    progress,
    split,
    start,
)

Small = Annotated[
    Path | None,
    typer.Option(help="A small model's folder for mlx-lm to draft with: DIR/small of `train lab --out DIR`."),
]


def peers(
    model: Model = None,
    source: From = None,
    small: Small = None,
    domains: Domains = "prose,code,math",
    max_draft: Annotated[str, typer.Option(help="Caps to choose from.")] = "1,2,3,4,5,6,7",
    prompts: Prompts = 20,
    trial_prompts: Annotated[int, typer.Option(min=1, help="Further prompts, on which caps are chosen.")] = 4,
    max_tokens: MaxTokens = 128,
    out: Out = TRACES / "peers.json",
):
    """Other implementations on this pair's very weights, greedily and in turns, each at its best; and our own limit.

    Every implementation has a process of its own, chooses its cap and number of BLAS threads on further prompts, and
    must give the tokens of plain decoding. One that cannot take part is listed with its reason. Needs the extra bench.
    """
    from dspark_lab.bench.contest import bars
    from dspark_lab.bench.peer_tables import peer_tables
    from dspark_lab.bench.peers import versions
    from dspark_lab.bench.prompts import heldout_prompts
    from dspark_lab.bench.record import digest

    pair, caps = load(model, None, source), [int(cap) for cap in split(max_draft)]
    count = prompts + trial_prompts
    asked = {domain: apart(heldout_prompts(domain, count, source), trial_prompts) for domain in split(domains)}
    settings = {"prompts": prompts, "trial_prompts": trial_prompts, "max_tokens": max_tokens, "caps": caps}
    record = start(out, pair, **settings, peers=versions(), small=small and digest(small))
    measure_contest(record, pair, model, small, asked, caps, max_tokens)
    pick_threads(pair, "dspark", {domain: own for domain, (_, own) in asked.items()})
    for domain, (_, own) in asked.items():
        measure_limit(record, pair, domain, own, max(caps), max_tokens)
    record.put("bars", bars({domain: record.cells[f"contest/{domain}"] for domain in asked}))
    finish(record, peer_tables(record.cells))


def measure_contest(record, pair, model, small, asked, caps, max_tokens):
    """A cell a domain. The implementations' processes live as long as some domain has none yet."""
    from dspark_lab.bench.contest import Entry, contest, players
    from dspark_lab.bench.peers import rows
    from dspark_lab.bench.speed import thread_counts
    from dspark_lab.export import export_pair

    missing = {domain: parts for domain, parts in asked.items() if f"contest/{domain}" not in record.cells}
    if not missing:
        return
    table, counts = rows(caps), thread_counts()
    with TemporaryDirectory() as folder:
        exported = export_pair(pair, Path(folder, "pair"))
        with players(table, {"model": model, "folder": exported, "small": small}) as found:
            entries = {
                name: [Entry(found[opener], s, threads, max_tokens) for s in settings for threads in counts]
                for name, (opener, settings) in table.items()
            }
            for domain, (trial, own) in missing.items():
                total = sum(map(len, entries.values())) * (len(trial) + 2) + len(entries) * len(own)
                with progress(f"{domain}: {len(entries)} rows", total) as tick:
                    measure = partial(contest, pair, entries, trial, own, max_tokens, tick)
                    record.cell(f"contest/{domain}", measure)


def measure_limit(record, pair, domain, prompts, cap, max_tokens):
    """The cell of how far our DSpark, at this cap, is from its limit."""
    from dspark_lab.bench.limit import limit

    with progress(f"{domain}: the limit", len(prompts) + 1) as tick:
        record.cell(f"limit/{domain}", partial(limit, pair, "dspark", prompts, cap, max_tokens, tick))
