"""What ``import dspark_lab`` sets up, seen from new processes."""

import os
import subprocess
import sys

import pytest


def said(code, **variables):
    """What ``code`` prints and warns in a Python of its own, with these environment variables set."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MLX_", "DSPARK_LAB_"))}
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
