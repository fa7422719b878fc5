"""The course as a website and on Binder: the files that Jupyter Book and repo2docker read."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import notebook_checks as checks
import pytest
import yaml

ROOT = Path(__file__).parents[1]
NOTEBOOKS, BINDER = ROOT / "notebooks", ROOT / "binder"
TITLES = ["race", "first_loop", "why_decoding_is_slow", "lossless_sampling", "block_diffusion", "markov_head"]
TITLES += ["confidence_head", "how_much_to_verify", "train_a_drafter", "choose_and_diagnose", "serving", "on_your_mac"]
PAGES = ["README", *(f"{number:02}_{title}" for number, title in enumerate(TITLES)), "exercises/README"]


def pages(folder):
    """The pages that the table of contents in ``folder`` names, in order."""
    toc = yaml.safe_load((folder / "_toc.yml").read_text())
    return [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]


def files(folder):
    """The pages that are there, as a table of contents would name them; of the exercises their README alone."""
    found = [*folder.glob("*.ipynb"), *folder.glob("*.md"), *folder.glob("exercises/*.md")]
    return {path.relative_to(folder).with_suffix("").as_posix() for path in found}


def test_the_contents_are_the_course():
    assert pages(NOTEBOOKS) == PAGES
    assert files(NOTEBOOKS) == set(PAGES)


def test_a_notebook_that_is_missing_or_left_out_is_noticed(tmp_path):
    shutil.copytree(NOTEBOOKS, tmp_path, dirs_exist_ok=True)
    there = files(tmp_path)
    (tmp_path / "03_lossless_sampling.ipynb").unlink()
    (tmp_path / "12_more.ipynb").touch()
    assert files(tmp_path) == there - {"03_lossless_sampling"} | {"12_more"}


@pytest.mark.parametrize("path", [NOTEBOOKS / "README.md", NOTEBOOKS / "exercises" / "README.md"], ids=str)
def test_links_of_the_readmes(path):
    assert checks.broken_links(path.read_text(), path) == []
    assert checks.broken_links("[gone](gone.md) [here](README.md)", path) == ["gone.md"]


@pytest.fixture
def offline_prefix():
    """Words to put before a command that shall have no network, where the system lets us."""
    words = ["unshare", "--user", "--map-root-user", "--net"]
    able = shutil.which("unshare") and subprocess.run([*words, "true"], capture_output=True).returncode == 0
    return words if able else []


@pytest.mark.skipif(not find_spec("jupyter_book"), reason='needs the extra book: pip install -e ".[book]"')
def test_the_website_builds_without_a_warning_and_without_network(tmp_path, offline_prefix):
    command = [*offline_prefix, Path(sys.executable).with_name("jupyter-book"), "build", NOTEBOOKS, "-W"]
    run = subprocess.run([*command, "--path-output", tmp_path], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    html = {page: (tmp_path / "_build" / "html" / f"{page}.html").read_text() for page in PAGES}
    for page, text in html.items():
        images = re.findall(r"<img\b[^>]*>", text)
        assert all(re.search(r'\balt="[^"]', image) for image in images), page
    assert "<details>" in html["00_race"] and "<figcaption>" in html["00_race"]
    assert not (NOTEBOOKS / "_build").exists()


def test_repo2docker_finds_what_it_reads():
    """With a folder binder/, repo2docker reads these files, by these names, in it alone."""
    known = {"environment.yml", "requirements.txt", "runtime.txt", "apt.txt", "postBuild", "start"}
    assert {path.name for path in BINDER.iterdir()} <= known
    lines = (BINDER / "requirements.txt").read_text().splitlines()  # pip runs in the repository's root
    assert {"-e .[serve]", "openai"} <= set(lines)  # notebook 10 starts the server
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    runtime = re.fullmatch(r"python-3\.(\d+)\n", (BINDER / "runtime.txt").read_text())
    assert runtime and int(runtime[1]) >= int(wanted.removeprefix(">=3."))


def test_the_image_is_not_made_if_its_first_steps_fail(tmp_path):
    script = BINDER / "postBuild"
    lines = script.read_text().splitlines()
    assert os.access(script, os.X_OK) and lines[0].startswith("#!") and lines[1] == "set -e"
    (tmp_path / "python").write_text("#!/bin/sh\nexit 3\n")
    (tmp_path / "python").chmod(0o755)
    with_ours = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    assert subprocess.run([script], env=with_ours).returncode == 3


def test_binder_opens_the_first_notebook():
    link = r"mybinder\.org/v2/gh/dspark-lab/dspark-lab/HEAD\?urlpath=lab/tree/(notebooks/\w+\.ipynb)\)"
    opened = re.findall(link, (NOTEBOOKS / "README.md").read_text())
    assert opened == ["notebooks/00_race.ipynb"] and (ROOT / opened[0]).exists()
