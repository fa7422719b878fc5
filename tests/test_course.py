"""Running the notebooks again, and cleaning them."""

import copy
import json

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from dspark_lab import cli, course

OLD = {"old": {"state": {}, "version_major": 2, "version_minor": 0}}


def save(path, *cells):
    """A notebook of code cells at ``path``, as an editor may leave it behind: run halfway, with its own metadata."""
    notebook = new_notebook(cells=[new_code_cell(source, metadata={"scrolled": True}) for source in cells])
    notebook.cells[0].metadata.tags, notebook.cells[0].execution_count = ["nbval-check-output"], 7
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": {"name": "python3", "display_name": "mine"}, "language_info": {"name": "python"}, "editor": "a"}
    )
    nbformat.write(notebook, path)
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A course of two notebooks, the second in a folder of its own."""
    monkeypatch.setattr(course, "CELL_SECONDS", 60)
    source, release = (tmp_path / "exercises" / part / "01_loop" for part in ("source", "release"))
    source.mkdir(parents=True)
    release.mkdir(parents=True)
    save(source / "01.ipynb", "open('here', 'w').close()")
    save(release / "01.ipynb", "raise NotImplementedError")
    save(tmp_path / "00.ipynb", "x = 3\nfor i in range(2):\n    print(i, flush=True)", "x * 2")
    return tmp_path


def test_rerun_runs_all_of_them_in_their_own_folders(folder):
    done = list(course.rerun(folder))
    assert [path.name for path, _ in done] == ["00.ipynb", "01.ipynb"] and all(seconds > 0 for _, seconds in done)
    assert (folder / "exercises" / "source" / "01_loop" / "here").exists()
    notebook = nbformat.read(folder / "00.ipynb", as_version=4)
    assert [cell.execution_count for cell in notebook.cells] == [1, 2]
    assert [output.text for output in notebook.cells[0].outputs] == ["0\n1\n"]
    assert notebook.cells[1].outputs[0].data["text/plain"] == "6"
    assert notebook.metadata.kernelspec == course.KERNEL and "editor" not in notebook.metadata
    assert [cell.metadata for cell in notebook.cells] == [{"tags": ["nbval-check-output"]}, {}]


def test_a_reader_gets_no_solutions(folder):
    (folder / "exercises" / "README.md").write_text("for all")
    (folder / "_static").mkdir()
    (folder / "_static" / "sources.js").write_text("for the website")
    to = folder.parent / "copy"
    course.copy_course(folder, to)
    copied = {path.relative_to(to).as_posix() for path in to.rglob("*") if path.is_file()}
    assert copied == {"00.ipynb", "_static/sources.js", "exercises/README.md", "exercises/release/01_loop/01.ipynb"}


@pytest.mark.parametrize(
    "cell, why", [("1 / 0", "ZeroDivisionError: division by zero"), ("import os; os._exit(3)", "DeadKernelError")]
)
def test_rerun_names_the_cell_that_stopped_it_and_leaves_that_notebook_alone(folder, cell, why):
    path = save(folder / "01_bad.ipynb", "y = 1", cell, "y")
    before = path.read_bytes()
    with pytest.raises(RuntimeError, match=rf"01_bad\.ipynb stopped at its cell 2 of 3.*{why}"):
        list(course.rerun(folder))
    assert path.read_bytes() == before
    assert nbformat.read(folder / "00.ipynb", as_version=4).cells[1].execution_count == 2
    assert (
        nbformat.read(folder / "exercises" / "source" / "01_loop" / "01.ipynb", as_version=4).cells[0].execution_count
        == 7
    )


def test_rerun_of_a_cell_that_hangs(folder, monkeypatch):
    monkeypatch.setattr(course, "CELL_SECONDS", 1)
    save(folder / "00.ipynb", "y = 1", "import time; time.sleep(60)")
    with pytest.raises(RuntimeError, match=r"cell 2 of 2.*[Tt]imeout"):
        list(course.rerun(folder))


def test_the_command_says_how_long_each_took(folder, monkeypatch, capsys):
    monkeypatch.setattr(course, "find_course", lambda: folder)
    monkeypatch.setattr(course, "rerun", lambda place: iter([(place / "exercises" / "01.ipynb", 12.3)]))
    cli.notebooks(rerun=True)
    assert capsys.readouterr().out.replace("\\", "/") == "exercises/01.ipynb: 12 s\n"


def test_cleaning_keeps_what_a_reader_needs_and_is_done_after_once(folder):
    path = folder / "00.ipynb"
    list(course.rerun(folder))
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.widgets = {"application/vnd.jupyter.widget-state+json": OLD}
    notebook.metadata.language_info.version = "3.11.7"
    notebook.cells[0].metadata.execution = {"iopub.status.busy": "2026-11-22T08:09:28Z"}
    nbformat.write(notebook, path)
    dirty = copy.deepcopy(json.loads(path.read_text()))
    course.main([path])
    once = path.read_bytes()
    course.main([path])
    assert path.read_bytes() == once
    cleaned = json.loads(once)
    for name in ("outputs", "execution_count", "source", "id"):
        assert [cell[name] for cell in cleaned["cells"]] == [cell[name] for cell in dirty["cells"]]
    assert cleaned["metadata"]["widgets"] == dirty["metadata"]["widgets"]
    assert b"3.11.7" not in once and b"2026" not in once and b"scrolled" not in once
