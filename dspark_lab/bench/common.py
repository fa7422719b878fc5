"""What the benchmarks' commands share: options, loading a pair, progress, and how each begins and ends."""

from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

TRACES = Path(__file__).parents[1] / "traces"

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


def apart(prompts, trial_prompts):
    """``prompts`` as two lists without a prompt in common: ``trial_prompts`` of them, evenly taken, and the rest."""
    if len(prompts) < trial_prompts + 2:
        raise ValueError(f"there are {len(prompts)} held-out prompts; {trial_prompts} to choose on leave no two over")
    chosen = {i * len(prompts) // trial_prompts for i in range(trial_prompts)}
    return [prompts[i] for i in sorted(chosen)], [prompt for i, prompt in enumerate(prompts) if i not in chosen]
