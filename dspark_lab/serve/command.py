"""dspark-lab serve."""

from pathlib import Path
from typing import Annotated

import typer

import dspark_lab as lab
from dspark_lab.cli import Confidence, DrafterBits, Drafters, Dtype, Force, MaxDraft, Mode, Model
from dspark_lab.serve.run import run

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def serve(
    model: Model = None,
    drafter: Drafters = None,
    mode: Mode = None,
    host: Annotated[str, typer.Option(help="Where to listen; what is not this machine's own is public.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    api_key: Annotated[str | None, typer.Option(envvar="DSPARK_LAB_API_KEY", help="Clients must send it.")] = None,
    max_draft: MaxDraft = None,
    confidence_threshold: Confidence = 0.0,
    queue: Annotated[int, typer.Option(min=0, help="Requests that wait at most; others are sent away for now.")] = 32,
    cache_memory: Annotated[int, typer.Option(min=0, help="MiB for the caches of earlier turns.")] = 1024,
    cache_folder: Annotated[Path | None, typer.Option(help="Keep them here too, for after a restart.")] = None,
    allow_origin: Annotated[list[str] | None, typer.Option(help="A web page that may use the server.")] = None,
    drafter_bits: DrafterBits = None,
    dtype: Dtype = None,
    force: Force = False,
):
    """Serve a pair to OpenAI clients, over HTTP."""
    pair = lab.load_pair(model, drafter or None, mode, drafter_bits=drafter_bits, dtype=dtype, force=force)
    options = {"max_draft": max_draft, "confidence_threshold": confidence_threshold, "queue": queue}
    options |= {"prefix_cache": lab.PrefixCache(pair, cache_memory * 2**20, cache_folder)}
    run(pair, mode, host=host, port=port, api_key=api_key, allow_origins=allow_origin or (), **options)
