"""Linux: put OpenBLAS in front of the reference BLAS that MLX's CPU wheel ships.

MLX's CPU wheel for Linux multiplies float32 matrices with the reference BLAS: right, but about forty times slower than
the same processor can go, and so slow in proportion to the number of rows that verifying eight tokens costs eight times
one. OpenBLAS exports the same ``cblas_*`` names. Loaded into the process's global scope *before* MLX, its functions are
the ones that MLX's calls bind to; loaded afterwards it changes nothing. Only float32 products go through BLAS:
bfloat16, float16 and quantized products do not, and stay slow on a CPU.

OpenBLAS's threads wait for their next product in a busy loop, some 30 ms long, and take the core that Python needs to
describe it: on two cores that costs plain decoding a third of its speed and a DSpark round a tenth. They are told to
sleep at once instead, unless the reader has set ``OPENBLAS_THREAD_TIMEOUT``.

macOS has Metal and Accelerate; there nothing is done. ``DSPARK_LAB_BLAS=reference`` keeps MLX's own BLAS, so that a
notebook can show what the difference is.
"""

import ctypes
import importlib.util
import os
import re
import sys
import tempfile
import time
import warnings
from pathlib import Path

_openblas = None  # the loaded library; it cannot be unloaded or swapped within a process
SLEEP_AT_ONCE = "4"  # log2 of the cycles an idle thread stays awake: the least that OpenBLAS takes; its own is 26


def install():
    """Load OpenBLAS ahead of MLX; called once, by ``import dspark_lab``, before anything imports ``mlx.core``.

    Warns and leaves MLX's own BLAS in place if MLX is already in memory or OpenBLAS cannot be loaded.
    """
    global _openblas
    if sys.platform != "linux" or _openblas or os.environ.get("DSPARK_LAB_BLAS") == "reference":
        return
    if "mlx.core" in sys.modules:
        warnings.warn(
            "mlx was imported before dspark_lab, so it keeps its slow reference BLAS on this Linux machine. "
            "Restart Python and import dspark_lab first.",
            stacklevel=3,
        )
        return
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", SLEEP_AT_ONCE)  # read once, as the library is loaded
    try:
        _openblas = _load()
    except OSError as error:
        warnings.warn(
            f"OpenBLAS could not be loaded ({error}); MLX keeps its slow reference BLAS. "
            "Try: pip install --force-reinstall cmeel-openblas",
            stacklevel=3,
        )


def _load():
    """Find cmeel-openblas's library and load it with global symbols. Raises OSError if that cannot be done."""
    found = sorted(_beside_mlx("cmeel.prefix/lib/libopenblas.so*"))
    if not found:
        raise OSError("the package cmeel-openblas is not installed")
    try:
        return ctypes.CDLL(str(found[0]), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        if "libgfortran" not in str(error):
            raise
    _load_bundled_gfortran()
    return ctypes.CDLL(str(found[0]), mode=ctypes.RTLD_GLOBAL)


def _load_bundled_gfortran():
    """Load, under its plain name, the libgfortran that MLX's wheel carries; OpenBLAS needs one and brings none.

    Wheels rename the libraries they carry (``libgfortran-f7379c93.so.5.0.0``), and the loader matches a library that is
    already in memory by the name written inside it. So a temporary copy gets its plain name back, ``libgfortran.so.5``.
    """
    for quadmath in _beside_mlx("mlx_cpu.libs/libquadmath*"):  # libgfortran's own dependency, on x86-64
        ctypes.CDLL(str(quadmath))
    for gfortran in _beside_mlx("mlx_cpu.libs/libgfortran*"):
        renamed = re.sub(
            rb"libgfortran-[0-9a-f-]+\.so\.5(\.\d+)*\0",
            lambda name: b"libgfortran.so.5".ljust(len(name[0]), b"\0"),
            gfortran.read_bytes(),
        )
        with tempfile.TemporaryDirectory() as folder:  # once loaded, the file is no longer needed
            copy = Path(folder, "libgfortran.so.5")
            copy.write_bytes(renamed)
            ctypes.CDLL(str(copy), mode=ctypes.RTLD_GLOBAL)


def _beside_mlx(pattern):
    """The files that match ``pattern`` in the folder that mlx is installed in; importing mlx itself would be too early.

    mlx is a namespace package, so a reader's own folder of that name may stand on the path too: all are looked beside.
    """
    spec = importlib.util.find_spec("mlx")
    if spec is None:
        raise OSError("the package mlx is not installed")
    return [file for place in spec.submodule_search_locations for file in Path(place).parent.glob(pattern)]


def name():
    """Which BLAS MLX's float32 products use here: "openblas", "reference" or "accelerate" (macOS)."""
    if sys.platform == "darwin":
        return "accelerate"
    return "openblas" if _openblas else "reference"


def threads():
    """The number of threads OpenBLAS uses now; 1 where it is not loaded."""
    return _openblas.openblas_get_num_threads() if _openblas else 1


def set_threads(n):
    """Let OpenBLAS use ``n`` threads from now on; nothing happens where it is not loaded."""
    if _openblas:
        _openblas.openblas_set_num_threads(int(n))


def pick_threads(work, repeats=7):
    """Set the number of OpenBLAS threads (one, or one a core) at which ``work()`` runs fastest, and return it.

    More is not always faster: a single row times a matrix is bound by memory, and threads that wait for one another
    cost more than they bring. ``work`` must do what it is to be fast at, and wait for it (``mx.eval``). The candidates
    take turns, so that a machine that slows down half-way slows both; the better median wins.
    """
    if not _openblas:
        return 1
    candidates = sorted({1, len(os.sched_getaffinity(0))})
    seconds = {n: [] for n in candidates}
    for _ in range(repeats + 1):  # the first turn warms up and is thrown away below
        for n in candidates:
            set_threads(n)
            start = time.perf_counter()
            work()
            seconds[n].append(time.perf_counter() - start)
    best = min(candidates, key=lambda n: sorted(seconds[n][1:])[repeats // 2])
    set_threads(best)
    return best
