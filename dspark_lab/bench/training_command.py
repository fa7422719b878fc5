"""dspark-lab bench training."""

from typing import Annotated

import typer

from dspark_lab.bench.common import TRACES, MaxTokens, Out, finish, progress, start


def training(
    seconds: Annotated[float, typer.Option(min=1, help="Training time; the clock runs in steps alone.")] = 300,
    texts: Annotated[int, typer.Option(min=2, help="Answers of the target's to learn from.")] = 192,
    unseen: Annotated[int, typer.Option(min=2, help="Answers to problems of other templates, to judge by.")] = 16,
    max_tokens: MaxTokens = 80,
    out: Out = TRACES / "training-five-minutes.json",
):
    """How acceptance climbs while a drafter is trained by the clock on this machine, as in notebook 08."""
    from rich.table import Table

    import dspark_lab as lab
    from dspark_lab.train import quick
    from dspark_lab.train.drafters import new_drafter

    pair, looks = lab.load_pair(mode="dspark"), 30
    config = quick.thin_config(pair)
    own = quick.make_lessons(pair, config["target_layer_ids"], quick.ask(pair, texts, seed=1), max_tokens)
    held = quick.make_lessons(
        pair, config["target_layer_ids"], quick.ask(pair, unseen, seed=2, heldout=True), max_tokens, seed=1
    )
    drafter = new_drafter(config, pair.target, seed=0)
    record = start(out, pair, seconds=seconds, texts=texts, unseen=unseen, max_tokens=max_tokens)
    table = Table("seconds", "steps", "overlap at position 1", "4", "7")
    rows = []
    with progress("training", looks + 1) as tick:
        for spent, step, overlaps in quick.climb(drafter, own, held, seconds, looks):
            rows.append({"seconds": round(spent, 1), "steps": step, "overlaps": [round(o, 4) for o in overlaps]})
            table.add_row(f"{spent:.0f}", str(step), *(f"{overlaps[k - 1]:.3f}" for k in (1, 4, 7)))
            tick()
    record.put("climb", rows)
    record.put("shipped", [round(o, 4) for o in quick.mean_overlaps(pair.drafter("dspark"), held)])
    finish(record, [table])
