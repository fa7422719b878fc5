"""What this machine has for decoding, and what would be slow on it, and why."""

import os
import platform
import shutil
import sys
import time
from statistics import median

import mlx.core as mx
from rich.table import Table
from rich.text import Text

from dspark_lab import blas, memory, pair, registry
from dspark_lab.bench.record import installed, processor
from dspark_lab.listing import gigabytes

PACKAGES = ("dspark-lab", "mlx", "mlx-lm", "mlx-vlm", "transformers", "huggingface-hub")
ROWS, WIDTH = 64, 1024  # of the product that is timed
SLOW_GFLOPS = 20  # a core with a good BLAS does 50 and more in float32, the reference BLAS about 5


def examine(console):
    """Print the facts on ``console``, and then every reason to expect less than this machine could do."""
    speed = gflops()
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    for what, found in [*facts(speed), *models()]:
        table.add_row(what, Text(found))
    console.print(table)
    reasons = list(slow(speed))
    console.print(
        "\nWhat would be slow here, and why:" if reasons else "\nNothing found that would slow decoding down."
    )
    for reason in reasons:
        console.print(Text(f"- {reason}"))


def facts(speed):
    """(what, found) of the machine and its software; ``speed``: as ``gflops`` measured it."""
    info, (limit, whose) = mx.device_info(), memory.available()
    kind = "CPU" if on_cpu() else "Metal" if mx.metal.is_available() else "CUDA"
    threads = f" on {blas.threads()} thread{'s' * (blas.threads() > 1)}" if blas.name() == "openblas" else ""
    yield "machine", f"{processor()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}"
    yield "device", f"{kind} ({info.get('device_name', platform.machine())})"
    yield "memory", f"{whose} {limit / memory.GB:.1f} GB" if limit else "not known"
    if on_cpu():
        yield "BLAS", f"{blas.name()}{threads}: {speed:.0f} GFLOP/s in float32, just measured"
    yield "Python", f"{platform.python_version()} {platform.machine()}"
    yield "packages", ", ".join(f"{name} {version}" for name, version in versions())


def versions():
    """(name, version) of the packages that matter, "not installed" where that is so."""
    for name in PACKAGES:
        version = installed(name)
        yield name, "not installed" if version == "checkout" and name != "dspark-lab" else version


def models():
    """(what, found) of models: the lab pair, the Hub's settings and cache, and what would fit."""
    from huggingface_hub import constants, get_token, is_offline_mode

    yield "lab pair", "found" if (pair.WEIGHTS / "base").is_dir() else "missing: dspark-lab train lab --out DIR"
    token = "a token is set" if get_token() else "no token, which only gated models need"
    yield "Hub", f"{'offline (HF_HUB_OFFLINE)' if is_offline_mode() else 'may be asked'}; {token}"
    found = [f"{name} ({size / memory.GB:.1f} GB)" for name, size in in_cache()]
    yield "in its cache", ", ".join(found) or f"no known target or drafter in {constants.HF_HUB_CACHE}"
    yield "would fit", ", ".join(fitting()) or "none of the published pairs"


def in_cache():
    """(repository, bytes) of the known targets and drafters in the Hub's cache, and of conversions of them."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    drafters = {name for known in registry.PUBLISHED for name in known.drafters.values()}
    try:
        kept = scan_cache_dir().repos
    except CacheNotFound:
        return []
    known = [repo for repo in kept if repo.repo_id in drafters or registry.find(repo.repo_id)]
    return sorted((repo.repo_id, repo.size_on_disk) for repo in known)


def fitting():
    """The published targets that fit with their best drafter, each at the most bits that do."""
    limit = memory.available()[0] or 0
    for known in registry.PUBLISHED:
        widths = {"float32": 32} if on_cpu() else {"8-bit": 8, "4-bit": 4}
        if fits := [name for name, bits in widths.items() if gigabytes(known, bits, on_cpu()) * memory.GB < limit]:
            yield f"{known.name} {fits[0]}"


def on_cpu():
    """Whether MLX computes on the CPU here."""
    return mx.default_device() == mx.cpu


def gflops(repeats=5):
    """Billions of float32 operations a second in a product of 64 rows with a square matrix, on the default device."""
    rows, matrix = mx.ones((ROWS, WIDTH)), mx.ones((WIDTH, WIDTH))
    mx.eval(rows @ matrix)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        mx.eval(rows @ matrix)
        seconds.append(time.perf_counter() - start)
    return 2 * ROWS * WIDTH**2 / median(seconds) / 1e9


def slow(speed):
    """Sentences: why decoding would be slower here than it might be. ``speed``: as ``gflops`` measured it."""
    yield from slow_cpu(speed) if on_cpu() else slow_metal() if mx.metal.is_available() else ()
    if (load := os.getloadavg()[0]) > (os.cpu_count() or 1):
        yield f"Other programs keep the cores busy (load {load:.1f} on {os.cpu_count()}): timings will wander."


def slow_cpu(speed):
    """Why, where MLX computes on the CPU."""
    if sys.platform == "darwin":
        yield (
            intel_python()
            if platform.machine() == "x86_64"
            else ("MLX computes on the CPU although this Mac has Metal: something has set the default device.")
        )
    elif shutil.which("nvidia-smi"):
        yield 'There is an NVIDIA GPU that this MLX does not use: pip install -e ".[cuda]"'
    if blas.name() == "reference":
        yield (
            "MLX multiplies with the reference BLAS, about forty times slower than the processor, and verifying eight "
            "tokens costs eight times one. Unset DSPARK_LAB_BLAS, import dspark_lab before mlx, and see that "
            "cmeel-openblas is installed."
        )
    elif speed < SLOW_GFLOPS:
        yield (
            f"Only {speed:.0f} GFLOP/s with {blas.name()}: another program may be using the cores, or MLX was imported "
            "before dspark_lab."
        )
    yield (
        "A CPU multiplies 16-bit and quantized numbers slowly, so that all becomes float32: a published target of 4 "
        "billion parameters takes 16 GB and is read whole in every pass. The lab pair is made for CPUs; published "
        "pairs want Apple silicon or an NVIDIA GPU. Quantisation does not slow decoding down there."
    )


def intel_python():
    """What to tell somebody whose Python was built for Intel Macs."""
    return (
        "This Python is built for Intel: on Apple silicon it is translated, and MLX has no Metal for it. Install an "
        "arm64 Python (python.org, Homebrew in /opt/homebrew, uv or conda-forge) and the package into that."
    )


def slow_metal():
    """Why, on Apple silicon."""
    chip, release = processor(), platform.mac_ver()[0]
    if chip.startswith(("Apple M1", "Apple M2")):
        yield f"{chip} has no bfloat16 arithmetic of its own; --dtype float16 may be faster for unquantized parts."
    if release and int(release.split(".")[0]) < 15:
        yield f"macOS {release} may page a large model out between passes; from macOS 15 on it is kept in memory."
    total = mx.device_info()["memory_size"]
    yield (
        f"Metal gives one program {memory.available()[0] / memory.GB:.1f} of this Mac's {total / memory.GB:.1f} GB; a "
        "pair that comes close to it swaps with other programs. sudo sysctl iogpu.wired_limit_mb=MEGABYTES raises it "
        "until the next start; leave macOS 8 GB."
    )
    yield (
        "Quantized products leave their fast path when several tokens are verified at once: each further token costs, "
        "more so in 4 bits than in 8. A short --max-draft (2 to 4) is often faster than the whole block."
    )
