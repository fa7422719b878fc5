"""The command line: dspark-lab generate | race | pairs | doctor | bench | train | export | serve | notebooks.

Everything heavy is imported inside the command that needs it, so that ``--help`` answers at once.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

import dspark_lab as lab

PROMPT = (
    "Rosa sets out 6 rows of 7 candles. Later Rosa finds 9 more. Hugo gives Rosa 5 more. Hugo has 4 more candles than "
    "Rosa has now. How many candles does Hugo have? Show your steps."
)
HARDER = "Write a Python function `is_prime(n)`."
FRAME_SECONDS = 0.04  # between two pictures of a race


class Commands(TyperGroup):
    """Turns whatever goes wrong in a command into a sentence on stderr and an exit code."""

    def invoke(self, ctx):
        """Run the command: 2 for bad usage or input, 130 for Ctrl-C, 1 for any other failure."""
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise
        except typer.TyperException as error:
            usage = (getattr(error, "ctx", None) or ctx).command_path
            fail(f"{error.format_message().rstrip('.')}; see: {usage} --help", error.exit_code)
        except (ValueError, FileNotFoundError) as error:
            fail(error, 2)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        except Exception as error:
            fail(f"{type(error).__name__}: {error}", 1)


def fail(error, code):
    """Say what went wrong and exit with ``code``."""
    typer.echo(f"dspark-lab: {error}", err=True)
    raise typer.Exit(code)


app = typer.Typer(
    cls=Commands,
    help="Fast decoding of language models with DSpark, DFlash and EAGLE-3, small enough to read. Start with: race",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def draft_limit(text):
    """What --max-draft means: "auto" or a whole number."""
    try:
        return text if text == "auto" else int(text)
    except ValueError:
        raise typer.BadParameter(f'{text!r} is neither a whole number nor "auto"') from None


trainer = typer.Typer(help="Train a pair of your own.")
app.add_typer(trainer, name="train")

Model = Annotated[
    str | None,
    typer.Option(help='A target\'s folder or repository on the Hub, or "lab-base"; the lab pair if left out.'),
]
Drafters = Annotated[
    list[str] | None, typer.Option("--drafter", help="A drafter's folder or repository; may be given repeatedly.")
]
DrafterBits = Annotated[
    int | None,
    typer.Option(help="Quantize drafters to so many bits; 0: not. If left out: 4 for those of the Hub."),
]
Dtype = Annotated[str | None, typer.Option(help="float32, float16 or bfloat16 for what is not quantized.")]
Force = Annotated[bool, typer.Option("--force", help="Load it even if memory will not do.")]
Mode = Annotated[str | None, typer.Option(help="dspark, dflash, dflash16, eagle3, lookup or baseline.")]
MaxDraft = Annotated[
    str | None,
    typer.Option(
        parser=draft_limit,
        metavar="INTEGER|auto",
        help='Tokens drafted a pass at most; the whole block if left out. "auto": as many as pay on this machine.',
    ),
]
Confidence = Annotated[float, typer.Option(help="Verify a draft while its confidence reaches it.")]
Temperature = Annotated[float, typer.Option(help="0 is greedy.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same text in the same mode.")]
MaxTokens = Annotated[int, typer.Option(help="Tokens generated at most.")]
Out = Annotated[Path, typer.Option(help="The folder to write.")]


@app.command()
def generate(
    model: Model = None,
    drafter: Drafters = None,
    mode: Mode = None,
    prompt: Annotated[str | None, typer.Option(help="What to answer; read from stdin if left out.")] = None,
    chat: Annotated[bool, typer.Option(help="Put the prompt into the target's chat template, if it has one.")] = True,
    max_draft: MaxDraft = None,
    confidence_threshold: Confidence = 0.0,
    temperature: Temperature = 0.0,
    top_p: Annotated[float, typer.Option(help="Keep the smallest set of tokens that has this probability.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="Keep this many tokens; 0 keeps all.")] = 0,
    seed: Seed = 0,
    max_tokens: MaxTokens = 128,
    drafter_bits: DrafterBits = None,
    dtype: Dtype = None,
    force: Force = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, with every round.")] = False,
):
    """Answer a prompt, and show what became of every drafted token."""
    prompt = read_prompt() if prompt is None else prompt
    options = {"chat": chat, "max_draft": max_draft, "confidence_threshold": confidence_threshold, "seed": seed}
    options |= {"temperature": temperature, "top_p": top_p, "top_k": top_k, "max_tokens": max_tokens}
    pair = lab.load_pair(model, drafter or None, mode, drafter_bits=drafter_bits, dtype=dtype, force=force)
    console = Console(highlight=False)
    if as_json:
        print_json(lab.generate(pair, prompt, mode, **options))
    elif console.is_terminal:
        print_marked(lab.stream(pair, prompt, mode, **options), decoder(pair), console)
    else:
        for r in lab.stream(pair, prompt, mode, **options):
            print(r.text, end="", flush=True)
        print()


def read_prompt():
    """The prompt on standard input, without the end of its last line."""
    if sys.stdin.isatty():
        raise ValueError("there is no prompt; give one with --prompt, or on standard input")
    return sys.stdin.read().removesuffix("\n")


def decoder(pair):
    """From a list of token ids to text."""
    return lambda tokens: pair.tokenizer.decode(tokens, clean_up_tokenization_spaces=False)


def print_json(result):
    """A Result as one JSON object on one line."""
    record = {name: getattr(result, name) for name in ("text", "tokens", "finish_reason")}
    record |= {"mean_accepted_length": result.mean_accepted_length, "tokens_per_sec": result.tokens_per_sec}
    record |= {"passes": len(result.rounds), "rounds": [r.to_dict() for r in result.rounds]}
    print(json.dumps(record))


def print_marked(rounds, decode, console):
    """Draw ``rounds`` as they come, each token by its fate, then the legend and some figures."""
    from dspark_lab.terminal import Ribbon, legend, summary

    def write(text, end="\n"):
        """With NO_COLOR not even bold or struck out: the glyphs say it all."""
        console.print(Text(text.plain) if console.no_color else text, end=end, soft_wrap=True)

    ribbon, seen = Ribbon(decode), []
    try:
        for r in rounds:
            seen.append(r)
            write(ribbon.marked(r), end="")
    finally:
        console.print()  # also after Ctrl-C
    if any(r.drafted for r in seen):
        write(legend(seen))
    write(Text(summary(seen)))


@app.command()
def race(
    model: Model = None,
    drafter: Drafters = None,
    mode: Mode = None,
    prompt: Annotated[str, typer.Option(help="What both lanes answer.")] = PROMPT,
    max_draft: MaxDraft = None,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    max_tokens: MaxTokens = 128,
    drafter_bits: DrafterBits = None,
    dtype: Dtype = None,
    force: Force = False,
):
    """Decode one prompt plainly and speculatively, side by side, and compare tokens, passes and seconds."""
    from dspark_lab.race import compare, line_up
    from dspark_lab.terminal import RULES, UNDERLINED, verdict

    console = Console(highlight=False)
    options = {"max_draft": max_draft, "temperature": temperature, "seed": seed, "max_tokens": max_tokens}
    with console.status("loading and warming up"):
        pair = lab.load_pair(model, drafter or None, mode, drafter_bits=drafter_bits, dtype=dtype, force=force)
        lanes = line_up(pair, prompt, mode, **options)
    console.print(Text(f"{prompt}\n", "bold"))
    show(lanes, decoder(pair), console)
    console.print(Text(RULES + (UNDERLINED if console.is_terminal else ""), "dim"))
    console.print(verdict(lanes, *compare(pair, lanes, temperature)))
    if prompt == PROMPT:
        console.print(f"Sums are easy to draft, code is harder:\n\n  dspark-lab race --prompt '{HARDER}'")


def show(lanes, decode, console):
    """Run the race, live on a terminal; the last picture stays, whole, also after Ctrl-C."""
    from rich.live import Live

    from dspark_lab.race import run
    from dspark_lab.terminal import Track, race_frame

    tracks, drawn = [Track(lane, decode) for lane in lanes], 0.0
    try:
        with Live(console=console, auto_refresh=False, transient=True) as live:
            for _ in run(lanes):
                if console.is_terminal and time.perf_counter() - drawn > FRAME_SECONDS:
                    live.update(race_frame(tracks, console, height=max(console.height - 12, 3)), refresh=True)
                    drawn = time.perf_counter()
    finally:
        console.print(race_frame(tracks, console))


@app.command()
def pairs():
    """List the pairs that are known, with what can draft for each."""
    from dspark_lab.listing import figures, lab_pair, published

    console = Console(highlight=False)
    for part in (lab_pair(), published(), figures()):
        console.print(part)
        console.print()
    console.print(
        "--model takes any of these in any conversion, by whomever, and finds its drafter; --mode chooses another.",
        "Memory is for short contexts, with the first drafter. Figures are their sources' own, on their machines;",
        "for yours: dspark-lab race --model mlx-community/Qwen3-4B-8bit",
        sep="\n",
    )


@app.command()
def doctor():
    """Say what this machine has, device, memory, BLAS, versions and models, and what would be slow here and why."""
    from dspark_lab.doctor import examine

    examine(Console(highlight=False))


@trainer.callback()
def train():
    """Train a pair of your own."""


@trainer.command("lab")
def train_lab(
    out: Out,
    tiny: Annotated[bool, typer.Option(help="All stages at toy size, about two minutes on two cores.")] = False,
    text_dir: Annotated[Path | None, typer.Option(help="A folder of *.txt, *.md and *.py files to train on.")] = None,
):
    """Train the lab pair; an interrupted run goes on where it stopped."""
    from dspark_lab.train.lab import train_lab

    train_lab(out, tiny=tiny, text_dir=text_dir)
    print(f"Done. Try: dspark-lab race --model {out}")


@app.command()
def export(out: Out, model: Model = None):
    """Write a pair as whole float32 folders in the published formats, for other programs to load."""
    from dspark_lab.export import export_pair

    for folder in sorted(export_pair(lab.load_pair(model), out).iterdir()):
        print(folder)


@app.command(add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def bench(ctx: typer.Context):
    """Measure acceptance and speed on this machine."""
    from dspark_lab.bench.commands import app as benchmarks

    forward(ctx, benchmarks)


@app.command(add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def serve(ctx: typer.Context):
    """Serve a pair to OpenAI clients, over HTTP."""
    try:
        from dspark_lab.serve.command import app as server
    except ImportError as error:
        raise ValueError(f"{error.name} is not installed; the server needs the extra dspark-lab[serve]") from None
    forward(ctx, server)


def forward(ctx, commands):
    """Let the Typer app ``commands`` have the arguments of ``ctx``."""
    with typer.main.get_command(commands).make_context(ctx.info_name, ctx.args, parent=ctx.parent) as inner:
        inner.command.invoke(inner)


@app.command()
def notebooks(
    to: Annotated[Path, typer.Option(help="The folder for your copy.")] = Path("dspark-lab-notebooks"),
    rerun: Annotated[
        bool, typer.Option("--rerun", help="Run the course's own notebooks again instead, all of them, in place.")
    ] = False,
):
    """Open the course in JupyterLab, on a copy that is yours; what you changed in it is never overwritten."""
    from dspark_lab import course

    folder = course.find_course()
    if folder is None:
        fail(
            "the notebooks are not beside this installation; clone the project, and install it with: pip install -e .",
            1,
        )
    if rerun:
        try:
            for path, seconds in course.rerun(folder):
                print(f"{path.relative_to(folder)}: {seconds:.0f} s", flush=True)
        except RuntimeError as error:
            fail(error, 1)
    else:
        course.copy_course(folder, to)
        raise typer.Exit(subprocess.call([sys.executable, "-m", "jupyterlab", str(to)]))


def main():
    """The console command ``dspark-lab``."""
    app(prog_name="dspark-lab")
