"""What a benchmark writes: one JSON file of cells, stamped with what they were measured on."""

import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import mlx.core as mx
import numpy as np

from dspark_lab import blas

RESAMPLES = 9999
WEIGHTS_DIGITS = 16  # of a SHA-256
FREE = ("date", "blas_threads", "weights")  # in what two runs that make one record may differ; weights in part


class Record:
    """A benchmark's file. Every cell is saved as soon as it is measured, so an interrupted run keeps what it has.

    A file that is already at ``path`` is gone on with if it was measured on the same machine, versions, weights and
    ``settings``, even if it has cells of other drafters; any other one is replaced at the first cell. ``cells``: name
    -> what was measured.
    """

    def __init__(self, path, stamp, settings):
        self.path, self.cells = Path(path), {}
        self.head = as_json({"stamp": stamp, "settings": settings})
        known = json.loads(self.path.read_text()) if self.path.is_file() else {}
        if alike(known, self.head):
            self.cells = known["cells"]
            self.head["stamp"]["date"] = known["stamp"]["date"]
            self.head["stamp"]["weights"] |= known["stamp"]["weights"]

    def cell(self, name, measure):
        """The cell ``name``: as it stands in the file, or else what ``measure()`` returns, saved."""
        if name not in self.cells:
            self.put(name, measure())
        return self.cells[name]

    def put(self, name, value):
        """Save ``value`` as the cell ``name``; the file is replaced whole, so that it is never half-written."""
        self.cells[name] = as_json(value)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_suffix(".tmp")
        unfinished.write_text(json.dumps({**self.head, "cells": self.cells}, indent=1) + "\n")
        unfinished.replace(self.path)


def as_json(value):
    """``value`` as it will be when it is read back: tuples are lists, keys are strings."""
    return json.loads(json.dumps(value))


def alike(a, b):
    """Whether the heads of two records agree, but for date, threads and weights that only one of them has."""
    if "stamp" not in a or a.get("settings") != b["settings"]:
        return False
    mine, theirs = a["stamp"], b["stamp"]
    same = all(mine.get(key) == theirs[key] for key in theirs if key not in FREE)
    return same and all(mine["weights"].get(name, weights) == weights for name, weights in theirs["weights"].items())


def make_stamp(pair):
    """What a measurement depends on: `machine_stamp`, and which weights."""
    weights = {name: digest(folder) for name, folder in pair.folders.items()}
    return machine_stamp() | {"pair": pair.name, "weights": weights}


def machine_stamp():
    """The date, in UTC, and what a measurement depends on besides the model: machine, versions, device and BLAS."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name.replace("-", "_"): installed(name) for name in ("mlx", "mlx-lm", "dspark-lab")},
        "device": device(),
        "blas": blas.name() if mx.default_device() == mx.cpu else None,  # a GPU's products go through none
        "blas_threads": blas.threads(),
    }


def device():
    """The name of the device that MLX computes on: the processor's on a CPU."""
    return mx.device_info().get("device_name") or processor()


@cache
def processor():
    """The processor's name, as the system gives it."""
    if sys.platform == "darwin":
        return subprocess.run(
            ["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True
        ).stdout.strip()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def installed(package):
    """The version of an installed package, or "checkout" for one that is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "checkout"


def digest(folder):
    """The start of a SHA-256 of the weights in ``folder``, which tells versions of a checkpoint apart."""
    hashed = hashlib.sha256()
    for file in sorted(Path(folder).glob("*.safetensors")):
        hashed.update(file.read_bytes())
    return hashed.hexdigest()[:WEIGHTS_DIGITS]


def peak_memory():
    """The most memory that this process has held so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # macOS counts bytes, Linux KiB


def over_prompts(statistic, *tables, resamples=RESAMPLES):
    """``statistic`` of ``tables`` summed over prompts, with its 95 % percentile bootstrap interval over prompts.

    Each table is (prompts, ...), a row of sums a prompt; several tables have the same prompts in the same order, so
    what moves a prompt in all of them cancels. ``statistic`` takes the sums (..., as the rows) and is asked for all
    resamples at once, along a first axis. Returns a dict of ``estimate``, ``low``, ``high`` (floats, or lists of
    them; None where there was nothing to divide by) and ``prompts``. The draws are the same in every run.
    """
    tables = [np.asarray(table, float) for table in tables]
    n = len(tables[0])
    times = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=resamples)  # how often each prompt is drawn
    with np.errstate(divide="ignore", invalid="ignore"):
        estimate = statistic(*(table.sum(0) for table in tables))
        draws = statistic(*(np.tensordot(times, table, 1) for table in tables))
        low, high = np.percentile(draws, [2.5, 97.5], axis=0)
    return {"estimate": finite(estimate), "low": finite(low), "high": finite(high), "prompts": n}


def finite(values):
    """``values`` as a float or a list of floats, with None for what is not a number."""
    listed = np.where(np.isfinite(values), values, None)
    return listed.tolist() if listed.ndim else listed.item()
