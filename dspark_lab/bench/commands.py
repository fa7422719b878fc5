"""dspark-lab bench: what every command measures is in the file of its name beside this one."""

from functools import partial
from typing import Annotated

import typer

from dspark_lab.bench import calibration_commands, cost_commands, peer_commands, training_command
from dspark_lab.bench.common import (
    TRACES,
    Domains,
    DrafterBits,
    Drafters,
    From,
    MaxTokens,
    Mode,
    Model,
    Out,
    Prompts,
    Temperatures,
    add_quantized,
    apart,
    finish,
    load,
    pick_threads,
    progress,
    split,
    start,
)

app = typer.Typer(
    help="Measure acceptance and speed on this machine. An interrupted run goes on where it stopped.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
app.command()(cost_commands.cost)
app.command()(cost_commands.auto)
app.command()(calibration_commands.calibration)
app.command()(peer_commands.peers)
app.command()(training_command.training)


@app.command()
def acceptance(
    model: Model = None,
    drafter: Drafters = None,
    drafter_bits: DrafterBits = None,
    source: From = None,
    domains: Domains = "prose,code,math",
    modes: Annotated[str | None, typer.Option(help="Separated by commas; all that the pair has if left out.")] = None,
    temperatures: Temperatures = "0,1",
    prompts: Prompts = 60,
    answers: Annotated[int, typer.Option(min=2, help="Held-out answers a domain, for bits per byte.")] = 400,
    max_tokens: MaxTokens = 96,
    out: Out = TRACES / "acceptance.json",
):
    """How much of a whole block the target accepts, with 95 % intervals over prompts."""
    from dspark_lab.bench.acceptance import comparisons, target_loss
    from dspark_lab.bench.prompts import heldout_prompts
    from dspark_lab.bench.tables import acceptance_tables

    pair = load(model, drafter, source)
    if drafter_bits:
        add_quantized(pair, drafter_bits)
    modes = split(modes) or [name for name in pair.modes if name != "baseline"]
    temperatures = [float(t) for t in split(temperatures)]
    asked = {domain: heldout_prompts(domain, prompts, source) for domain in split(domains)}
    for mode in modes:
        pair.drafter(mode)  # refuses an unknown one before anything is measured
    pick_threads(pair, modes[0], asked)
    record = start(out, pair, prompts=prompts, answers=answers, max_tokens=max_tokens)
    for domain, own in asked.items():
        measure_rollouts(record, pair, domain, own, modes, temperatures, max_tokens)
        measure_overlaps(record, pair, domain, own, [mode for mode in modes if pair.drafter(mode).taps], max_tokens)
        with progress(f"{domain}: held-out answers", answers) as tick:
            record.cell(f"target/{domain}", partial(target_loss, pair, domain, answers, source, tick))
        record.put("comparisons", comparisons(record.cells))
    finish(record, acceptance_tables(record.cells))


def measure_rollouts(record, pair, domain, prompts, modes, temperatures, max_tokens):
    """A cell for each mode and temperature."""
    from dspark_lab.bench.acceptance import rollouts

    for mode in modes:
        for t in temperatures:
            with progress(f"{domain}: {mode} at temperature {t:g}", len(prompts)) as tick:
                measure = partial(rollouts, pair, mode, prompts, t, max_tokens, tick)
                record.cell(f"rollouts/{domain}/{mode}/{t:g}", measure)


def measure_overlaps(record, pair, domain, prompts, modes, max_tokens):
    """A cell for each drafter, all on the same texts of the target's own, which are not kept."""
    from dspark_lab.bench.acceptance import overlaps, target_texts

    missing = [mode for mode in modes if f"overlaps/{domain}/{mode}" not in record.cells]
    if not missing:
        return
    with progress(f"{domain}: the target's own answers", len(prompts)) as tick:
        texts = target_texts(pair, prompts, max_tokens, tick)
    for mode in missing:
        with progress(f"{domain}: {mode} teacher-forced", len(texts)) as tick:
            record.put(f"overlaps/{domain}/{mode}", overlaps(pair.target, pair.drafter(mode), texts, tick))


@app.command()
def speed(
    model: Model = None,
    drafter: Drafters = None,
    source: From = None,
    domains: Domains = "prose,code,math",
    mode: Mode = None,
    temperatures: Temperatures = "0,1",
    max_draft: Annotated[str, typer.Option(help="Caps to choose from.")] = "1,2,3,4,5,6,7",
    thresholds: Annotated[str, typer.Option(help="Confidence thresholds to choose from.")] = "0.3,0.5,0.7",
    prompts: Prompts = 20,
    trial_prompts: Annotated[int, typer.Option(min=1, help="Further prompts, on which caps are chosen.")] = 4,
    max_tokens: MaxTokens = 128,
    out: Out = TRACES / "speed.json",
):
    """Plain decoding against mlx-lm's, and a drafter at its best cap or threshold against plain decoding.

    Both sides run prompt by prompt in turns, each on its better number of OpenBLAS threads. The clock runs from the
    first arrival of tokens to the last on either side, so that the prompt's pass counts for neither.
    """
    from dspark_lab.bench.prompts import heldout_prompts
    from dspark_lab.bench.speed import draft_options
    from dspark_lab.bench.tables import speed_tables

    pair = load(model, drafter, source)
    mode = pair.resolve(mode)
    caps, thresholds = [int(cap) for cap in split(max_draft)], [float(t) for t in split(thresholds)]
    temperatures, options = [float(t) for t in split(temperatures)], draft_options(pair.drafter(mode), caps, thresholds)
    count = prompts + trial_prompts
    asked = {domain: apart(heldout_prompts(domain, count, source), trial_prompts) for domain in split(domains)}
    record = start(out, pair, prompts=prompts, trial_prompts=trial_prompts, max_tokens=max_tokens, options=options)
    for domain, (trial, own) in asked.items():
        measure_plain(record, pair, domain, trial, own, max_tokens)
        for t in temperatures:
            measure_mode(record, pair, domain, mode, options, t, trial, own, max_tokens)
    finish(record, speed_tables(record.cells))


def measure_plain(record, pair, domain, trial, prompts, max_tokens):
    """The cell of plain decoding against ``mlx_lm.stream_generate``, and whether their tokens are equal."""
    from dspark_lab.bench.speed import duel, mlx_lm, plain, thread_counts

    sides = plain(pair, thread_counts(), max_tokens), mlx_lm(pair, thread_counts(), max_tokens)
    with progress(f"{domain}: plain and mlx_lm", runs(sides, trial, prompts)) as tick:
        record.cell(f"plain/{domain}", partial(duel, pair, *sides, trial, prompts, True, tick))


def measure_mode(record, pair, domain, mode, options, temperature, trial, prompts, max_tokens):
    """The cell of ``mode`` at the best of ``options`` against plain decoding."""
    from dspark_lab.bench.speed import duel, plain, settings, thread_counts

    ours = settings(pair, mode, options, thread_counts(), max_tokens, temperature)
    sides = ours, plain(pair, thread_counts(), max_tokens, temperature)
    with progress(f"{domain}: {mode} and plain at temperature {temperature:g}", runs(sides, trial, prompts)) as tick:
        measure = partial(duel, pair, *sides, trial, prompts, temperature == 0, tick)
        record.cell(f"mode/{domain}/{mode}/{temperature:g}", measure)


def runs(sides, trial, prompts):
    """How many texts a duel generates: every candidate on the trial prompts and a warm-up, then both sides."""
    return sum(map(len, sides)) * (len(trial) + 1) + 2 * len(prompts)


@app.command()
def profile(
    model: Model = None,
    drafter: Drafters = None,
    source: From = None,
    domains: Domains = "code",
    mode: Mode = None,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    max_draft: Annotated[int | None, typer.Option(help="Tokens drafted a pass at most.")] = None,
    prompts: Prompts = 10,
    max_tokens: MaxTokens = 96,
    out: Out = TRACES / "profile.json",
):
    """Where a round goes, in milliseconds and per cent; every part is waited for, which costs something itself."""
    from dspark_lab.bench.profile import profile
    from dspark_lab.bench.prompts import heldout_prompts
    from dspark_lab.bench.tables import profile_table

    pair = load(model, drafter, source)
    mode = pair.resolve(mode)
    options = {"temperature": temperature, "max_draft": max_draft, "max_tokens": max_tokens}
    asked = {domain: heldout_prompts(domain, prompts, source) for domain in split(domains)}
    pick_threads(pair, mode, asked)
    record = start(out, pair, prompts=prompts, **options)
    for domain, own in asked.items():
        with progress(f"{domain}: {mode}", len(own)) as tick:
            record.cell(f"{domain}/{mode}", partial(profile, pair, mode, own, tick, **options))
    finish(record, [profile_table(name, cell) for name, cell in record.cells.items()])


@app.command()
def batch(
    model: Model = None,
    drafter: Drafters = None,
    source: From = None,
    domains: Domains = "prose,code,math",
    mode: Mode = None,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    sizes: Annotated[str, typer.Option(help="Requests decoded together.")] = "1,2,4,8,16",
    max_draft: Annotated[str, typer.Option(help="Fixed draft lengths to compare with.")] = "1,3,7",
    prompts: Prompts = 20,
    runs: Annotated[int, typer.Option(min=2, help="Runs of each schedule, on twice as many prompts as fit.")] = 8,
    max_tokens: MaxTokens = 96,
    out: Out = TRACES / "batch.json",
):
    """Throughput against speed per user, and how much is verified, as more requests are decoded together."""
    from dspark_lab.bench.batch import batch_speeds
    from dspark_lab.bench.prompts import heldout_prompts
    from dspark_lab.bench.tables import batch_tables

    pair = load(model, drafter, source)
    mode = pair.resolve(mode)
    lengths, options = [int(n) for n in split(max_draft)], {"temperature": temperature, "max_tokens": max_tokens}
    asked = {domain: heldout_prompts(domain, prompts, source) for domain in split(domains)}
    mixed = [prompt for each in zip(*asked.values()) for prompt in each]  # every batch has all domains in it
    pick_threads(pair, mode, asked)
    record = start(out, pair, mode=mode, domains=list(asked), lengths=lengths, prompts=prompts, runs=runs, **options)
    for size in [int(n) for n in split(sizes)]:
        with progress(f"{size} requests", 4 + runs * (len(lengths) + 3)) as tick:
            measure = partial(batch_speeds, pair, mode, mixed, size, lengths, runs, tick, **options)
            record.cell(f"{mode}/{size}", measure)
    finish(record, batch_tables(record.cells))


@app.command()
def rollback(
    model: Model = None,
    context: Annotated[int, typer.Option(min=1, help="Tokens already in the caches.")] = 256,
    max_draft: Annotated[int, typer.Option(min=1, max=63, help="Tokens drafted.")] = 15,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of which the median is taken.")] = 10,
    out: Out = TRACES / "rollback.json",
):
    """What undoing a rejection costs the target, in milliseconds, for every number of tokens kept."""
    import dspark_lab as lab
    from dspark_lab.bench.rollback import rollback_costs
    from dspark_lab.bench.tables import rollback_table

    pair = lab.load_pair(model)
    record = start(out, pair, context=context, max_draft=max_draft, repeats=repeats)
    with progress(f"{pair.name}: rollback", max_draft) as tick:
        cells = record.cell(pair.name, partial(rollback_costs, pair.target, context, max_draft, repeats, tick))
    finish(record, [rollback_table(pair.name, cells)])


@app.command()
def turns(
    model: Model = None,
    drafter: Drafters = None,
    modes: Annotated[str, typer.Option(help="Separated by commas.")] = "baseline,dspark",
    context: Annotated[int, typer.Option(min=2, help="Tokens so far; by default as many as the lab pair takes.")] = 984,
    turn: Annotated[int, typer.Option(min=1, help="Tokens of the new turn.")] = 32,
    conversations: Annotated[int, typer.Option(min=2, help="Conversations.")] = 20,
    out: Out = TRACES / "turns.json",
):
    """The time to a follow-up turn's first tokens, with the caches of the turns before it and without."""
    import dspark_lab as lab
    from dspark_lab.bench import speed
    from dspark_lab.bench import turns as measure
    from dspark_lab.bench.tables import turns_table

    pair = lab.load_pair(model, drafter=drafter or None)
    texts = measure.conversations(pair, conversations, context, turn)
    record = start(out, pair, context=context, turn=turn, conversations=conversations)
    for mode in split(modes):
        for threads in speed.thread_counts():
            with progress(f"{mode} on {threads} BLAS thread(s)", conversations) as tick:
                follow_ups = partial(measure.follow_ups, pair, mode, texts, threads, tick)
                record.cell(f"turns/{mode}/{threads}", follow_ups)
    finish(record, [turns_table(record.cells)])
