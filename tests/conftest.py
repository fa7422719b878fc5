"""What several test files need. Imported before them, so that OpenBLAS is in memory before any of them imports MLX."""

from pathlib import Path

import pytest

import dspark_lab as lab

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path_factory):
    """No test asks the Hub, nor looks into the reader's own cache of it; those of downloads have one of their own."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path_factory.getbasetemp() / "no-cache"))


@pytest.fixture(scope="session")
def golden_folder():
    """The folder of the golden checkpoints; see its README."""
    return GOLDEN


@pytest.fixture(scope="session")
def golden():
    """The golden target with a drafter of every kind."""
    folders = ("dspark_vanilla", "dflash_block7", "zlab_dflash_b16", "eagle3")
    return lab.load_pair(GOLDEN / "target", drafter=[GOLDEN / folder for folder in folders])


@pytest.fixture(scope="session")
def lab_folder(tmp_path_factory):
    """The golden checkpoints laid out as by ``dspark-lab train lab``: 8-bit base, LoRA adapters, 8-bit drafters."""
    from lab_layout import write_lab

    return write_lab(GOLDEN, tmp_path_factory.mktemp("lab"))
