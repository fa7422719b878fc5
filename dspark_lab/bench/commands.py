"""dspark-lab bench: acceptance | speed | profile. What they measure is in the files beside this one."""

from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

TRACES = Path(__file__).parents[1] / "traces"

app = typer.Typer(
    help="Measure acceptance and speed on this machine. An interrupted run goes on where it stopped.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

Model = Annotated[str | None, typer.Option(help="A target's folder; the lab pair if left out.")]
Drafters = Annotated[list[str] | None, typer.Option("--drafter", help="A further drafter's folder; may be repeated.")]
From = Annotated[
    Path | None,
    typer.Option("--from", help="A folder of `dspark-lab train lab`, for its held-out text; gathered if left out."),
]
Domains = Annotated[str, typer.Option(help="Separated by commas.")]
Mode = Annotated[str | None, typer.Option(help="The drafter; the pair's best if left out.")]
Temperatures = Annotated[str, typer.Option(help="Separated by commas; 0 is greedy.")]
Prompts = Annotated[int, typer.Option(min=2, help="Held-out prompts a domain.")]
MaxTokens = Annotated[int, typer.Option(min=2, help="Tokens generated a prompt at most.")]
DrafterBits = Annotated[
    int | None,
    typer.Option(help="Measure each drafter a second time, quantized to so many bits: dspark beside dspark@4bit."),
]
Out = Annotated[Path, typer.Option(help="The JSON file to write.", show_default="in the package's traces/")]


@app.command()
def acceptance(
    model: Model = None,
    drafter: Drafters = None,
    source: From = None,
    domains: Domains = "prose,code,math",
    modes: Annotated[str | None, typer.Option(help="Separated by commas; all that the pair has if left out.")] = None,
    temperatures: Temperatures = "0,1",
    prompts: Prompts = 60,
    answers: Annotated[int, typer.Option(min=2, help="Held-out answers a domain, for bits per byte.")] = 400,
    max_tokens: MaxTokens = 96,
    drafter_bits: DrafterBits = None,
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
    mode = pair.drafter(mode).mode if mode is None else mode
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


def apart(prompts, trial_prompts):
    """``prompts`` as two lists without a prompt in common: ``trial_prompts`` of them, evenly taken, and the rest."""
    if len(prompts) < trial_prompts + 2:
        raise ValueError(f"there are {len(prompts)} held-out prompts; {trial_prompts} to choose on leave no two over")
    chosen = {i * len(prompts) // trial_prompts for i in range(trial_prompts)}
    return [prompts[i] for i in sorted(chosen)], [prompt for i, prompt in enumerate(prompts) if i not in chosen]


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
    mode = pair.drafter(mode).mode if mode is None else mode
    options = {"temperature": temperature, "max_draft": max_draft, "max_tokens": max_tokens}
    asked = {domain: heldout_prompts(domain, prompts, source) for domain in split(domains)}
    pick_threads(pair, mode, asked)
    record = start(out, pair, prompts=prompts, **options)
    for domain, own in asked.items():
        with progress(f"{domain}: {mode}", len(own)) as tick:
            record.cell(f"{domain}/{mode}", partial(profile, pair, mode, own, tick, **options))
    finish(record, [profile_table(name, cell) for name, cell in record.cells.items()])


def load(model, drafters, source):
    """The pair, with the further ``drafters`` (folders) under their folders' names as modes."""
    import dspark_lab as lab
    from dspark_lab.drafters.load import load_drafter
    from dspark_lab.pair import local_folder

    if model is not None and source is None:
        raise ValueError("held-out text is gathered for the lab pair alone; give --from DIR with another --model")
    pair = lab.load_pair(model)
    for folder in map(local_folder, drafters or []):
        if folder.name in pair.drafters:
            raise ValueError(f"the pair has a {folder.name} already; rename the folder {folder}")
        pair.drafters[folder.name], pair.folders[folder.name] = load_drafter(folder, pair.target), folder
    return pair


def add_quantized(pair, bits):
    """Put each drafter of ``pair`` that has weights into it once more, quantized to ``bits``."""
    from dspark_lab.drafters.load import load_drafter

    for mode, folder in list(pair.folders.items()):
        if mode != "target":
            name = f"{mode}@{bits}bit"
            pair.drafters[name], pair.folders[name] = load_drafter(folder, pair.target, bits), folder


def pick_threads(pair, mode, asked):
    """Let OpenBLAS use the threads on which a round of ``mode`` goes fastest; ``asked``: domain -> prompts."""
    from dspark_lab.race import WARM_UP_TOKENS, warm_up

    warm_up(pair, next(iter(asked.values()))[0], mode, {"max_tokens": WARM_UP_TOKENS})


def split(text):
    """The parts of an option's ``text`` between commas; none of None."""
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def start(out, pair, **settings):
    """The Record in the file ``out``."""
    from dspark_lab.bench.record import Record, make_stamp

    return Record(out, make_stamp(pair), settings)


@contextmanager
def progress(title, total):
    """A progress bar; what it yields is to be called once a step."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=total)
        yield lambda: bar.advance(task)


def finish(record, tables):
    """Print the tables, where the numbers are and the most memory that was used."""
    from rich.console import Console

    from dspark_lab.bench.record import peak_memory

    console, stamp = Console(highlight=False), record.head["stamp"]
    for table in tables:
        console.print(table)
    console.print(f"{stamp['processor']}, {stamp['cores']} cores, {stamp['blas']}, mlx {stamp['mlx']}", markup=False)
    console.print(f"Peak memory {peak_memory():.0f} MiB. Written to {record.path}", markup=False, soft_wrap=True)
