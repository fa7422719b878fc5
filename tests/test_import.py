"""What ``import dspark_lab`` sets up, seen from new processes."""

import os
import subprocess
import sys

import pytest


def said(code, **variables):
    """What ``code`` prints and warns in a Python of its own, with these environment variables set."""
    inherited = ("MLX_", "DSPARK_LAB_", "OPENBLAS_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(inherited)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment | variables, capture_output=True, text=True, check=True
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize(("own", "expected"), [({}, "0"), ({"MLX_ENABLE_TF32": "1"}, "1")])
def test_float32_is_float32_unless_the_reader_says_otherwise(own, expected):
    assert said("import os, dspark_lab; print(os.environ['MLX_ENABLE_TF32'])", **own).split() == [expected]


@pytest.mark.skipif(sys.platform != "linux", reason="on macOS there is nothing to put in front")
def test_openblas_has_to_come_before_mlx():
    name = "from dspark_lab import blas; print(blas.name())"
    assert said(f"import dspark_lab; {name}").split() == ["openblas"]
    assert said(f"import dspark_lab; {name}", DSPARK_LAB_BLAS="reference").split() == ["reference"]
    late = said(f"import mlx.core, dspark_lab; {name}")
    assert "mlx was imported before dspark_lab" in late and "reference" in late.split()


@pytest.mark.skipif(sys.platform != "linux" or os.cpu_count() < 2, reason="OpenBLAS has no second thread")
def test_idle_threads_of_openblas_leave_the_cores_alone():
    """Python describes the next product while they would wait for it: what they burn in 20 ms is seen in CPU time."""
    waiting = """
import time, dspark_lab, mlx.core as mx
dspark_lab.blas.set_threads(2)
x, burnt = mx.ones((512, 512)), []
for _ in range(5):
    mx.eval(x @ x)
    start = time.process_time()
    time.sleep(0.02)
    burnt.append(time.process_time() - start)
print(max(burnt) > 0.01)
"""
    assert said(waiting, OPENBLAS_THREAD_TIMEOUT="26").split() == ["True"]  # the reader's own setting stands
    assert said(waiting).split() == ["False"]
