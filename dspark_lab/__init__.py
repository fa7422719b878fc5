# ruff: noqa: E402  (OpenBLAS must be in memory before anything imports MLX)
"""Speculative decoding with DSpark, DFlash and EAGLE-3, small enough to read. The public names, nothing else."""

import importlib
import os
import sys
from pathlib import Path

from . import blas

blas.install()
# Float32 means float32: on NVIDIA's GPUs and from Apple's M5 on, MLX would multiply it with 10 bits of mantissa, and a
# pass over one token would differ from one over eight by enough to choose other tokens. A reader's own setting stands.
os.environ.setdefault("MLX_ENABLE_TF32", "0")

if Path(*sys.argv[:1]).name != "dspark-lab":  # the command line answers --help without it, and imports it when needed
    import mlx_lm.utils  # noqa: F401  (most of a second, paid here rather than by the first load_pair)

from dspark_lab import calibrate, cost, examples, metrics, published, sealed, toy
from dspark_lab.auto import Auto
from dspark_lab.cost import measure_costs, measure_verify_cost, speedup
from dspark_lab.curves import Costs, Curve, load_traces
from dspark_lab.decode import decode
from dspark_lab.generate import Result, generate, stream
from dspark_lab.pair import Pair, load_pair
from dspark_lab.prefix_cache import PrefixCache
from dspark_lab.rounds import Round
from dspark_lab.sampling import Sampling, accept, acceptance, residual
from dspark_lab.schedule import (
    Cap,
    Delayed,
    HardwareAware,
    Retrospective,
    SurvivalThreshold,
    Threshold,
    WholeDraft,
)
from dspark_lab.source import show_source

__all__ = [
    "Auto",
    "BatchRound",
    "Cap",
    "Costs",
    "Curve",
    "Delayed",
    "HardwareAware",
    "Pair",
    "PrefixCache",
    "Result",
    "Retrospective",
    "Round",
    "Sampling",
    "SurvivalThreshold",
    "Threshold",
    "WholeDraft",
    "accept",
    "acceptance",
    "calibrate",
    "cost",
    "decode",
    "decode_batch",
    "examples",
    "generate",
    "load_pair",
    "load_traces",
    "measure_costs",
    "measure_verify_cost",
    "metrics",
    "plots",
    "published",
    "residual",
    "rounds_by_request",
    "sealed",
    "show_source",
    "speedup",
    "stream",
    "toy",
    "widgets",
]


def __getattr__(name):
    # Figures and widgets bring matplotlib and ipywidgets with them, and batches mlx-lm's caches, which the command
    # line's --help can do without: only those pay who ask.
    if name in ("plots", "widgets"):
        return importlib.import_module(f"dspark_lab.{name}")
    if name in ("BatchRound", "decode_batch", "rounds_by_request"):
        return getattr(importlib.import_module("dspark_lab.batch"), name)
    raise AttributeError(f"module 'dspark_lab' has no attribute {name!r}")
