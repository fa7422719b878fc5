"""Every notebook of the course as it is saved: complete, in order, described, clean. And nbval can fail."""

import copy
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import notebook_checks as checks
import pytest

from dspark_lab import course

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
COURSE = [path for path in course.notebooks(NOTEBOOKS) if path.parent == NOTEBOOKS]
EXERCISES = [path for path in course.notebooks(NOTEBOOKS) if path.parent != NOTEBOOKS]
RULES = [(rule, path) for path in COURSE for rule in checks.IN_THE_COURSE]
RULES += [(rule, path) for path in EXERCISES for rule in checks.EVERYWHERE]
WHOLE = NOTEBOOKS / "03_lossless_sampling.ipynb"  # a notebook that keeps every rule


def name_of(value):
    """How pytest calls a rule or a notebook."""
    return getattr(value, "__name__", None) or value.relative_to(NOTEBOOKS).as_posix()


@pytest.mark.parametrize("rule, path", RULES, ids=name_of)
def test_notebook(rule, path):
    complaints = rule(nbformat.read(path, as_version=4), path)
    assert not complaints, f"{path.name}: {rule.__doc__.splitlines()[0]} But: " + "; ".join(complaints)


@pytest.mark.parametrize("path", COURSE + EXERCISES, ids=name_of)
def test_notebook_is_clean(path):
    """Cleaning, as before a commit, would change nothing."""
    notebook = nbformat.read(path, as_version=4)
    assert course.clean(copy.deepcopy(notebook)) == notebook, f"python -m dspark_lab.course {path.name}"


def a_figure(notebook):
    """The first output that is a picture."""
    outputs = (output for _, cell in checks.code(notebook) for output in cell.outputs)
    return next(output for output in outputs if "image/png" in output.get("data", {}))


def add(text, to="source", cell=0):
    """A tampering that adds ``text`` to the source of a cell, or to its outputs."""

    def tamper(notebook):
        if to == "source":
            notebook.cells[cell].source += text
        else:
            checks.code(notebook)[cell][1].outputs.append(nbformat.v4.new_output("stream", name=to, text=text))

    return tamper


def replace(old, new, cell=0):
    """A tampering that rewrites part of a cell's source."""

    def tamper(notebook):
        assert old in notebook.cells[cell].source
        notebook.cells[cell].source = notebook.cells[cell].source.replace(old, new)

    return tamper


def swap(notebook):
    """Two code cells change places after the run."""
    (a, _), (b, _) = checks.code(notebook)[1:3]
    notebook.cells[a - 1], notebook.cells[b - 1] = notebook.cells[b - 1], notebook.cells[a - 1]


def add_cell(notebook):
    """A cell that nobody ran."""
    notebook.cells.append(nbformat.v4.new_code_cell("1 + 1"))


def untag(notebook):
    """All but four of the tags go."""
    for _, cell in checks.tagged(notebook)[4:]:
        cell.metadata.pop("tags")


def fail(notebook):
    """A cell that ended in an error."""
    error = nbformat.v4.new_output("error", ename="ValueError", evalue="no", traceback=["ValueError: no"])
    notebook.cells[-1] = nbformat.v4.new_code_cell("1", outputs=[error])


TAMPERINGS = [
    (checks.checked_cells_have_outputs, lambda notebook: checks.tagged(notebook)[0][1].outputs.clear()),
    (checks.checked_cells_have_outputs, lambda n: checks.tagged(n)[-1][1].update(execution_count=None)),
    (checks.enough_is_checked, untag),
    (checks.figures_are_described, lambda notebook: a_figure(notebook).metadata.clear()),
    (checks.figures_are_described, lambda n: a_figure(n).data.update({"text/html": '<img alt="" src="x">'})),
    (checks.figures_are_described, lambda notebook: a_figure(notebook).data.pop("text/html")),
    (checks.figures_are_described, add("![](picture.png)")),
    (checks.cells_are_short, lambda n: checks.code(n)[0][1].update(source="x = 1\n" * 26)),
    (checks.was_run_in_order, swap),
    (checks.was_run_in_order, add_cell),
    (checks.core_is_small, add(" word" * 1500)),
    (checks.core_is_small, lambda n: n.cells.extend([nbformat.v4.new_code_cell("x = 1")] * 20)),
    (checks.nothing_of_the_machine, lambda n: n.metadata.update(path="here")),
    (checks.nothing_of_the_machine, lambda n: n.metadata.kernelspec.update(display_name="/home/mary/venv")),
    (checks.nothing_of_the_machine, lambda n: n.cells[0].metadata.update(execution={})),
    (checks.nothing_of_the_machine, add("saved in /Users/mary/race.json", to="stdout")),
    (checks.nothing_went_wrong, fail),
    (checks.nothing_went_wrong, add("x.py:3: UserWarning: odd", to="stdout")),
    (checks.nothing_went_wrong, add("odd", to="stderr")),
    (checks.opens_as_it_should, replace("# 03", "# 04")),
    (checks.opens_as_it_should, replace("?**", ".**")),
    (checks.opens_as_it_should, replace("Before it:", "After it:")),
    (checks.opens_as_it_should, replace("lab/tree/notebooks/03", "lab/tree/notebooks/02")),
    (checks.opens_as_it_should, replace("blob/HEAD/notebooks/03", "blob/HEAD/notebooks/02")),
    (checks.links_lead_somewhere, add("[next](99_nowhere.ipynb)")),
    (checks.links_lead_somewhere, lambda n: a_figure(n).data.update({"text/html": '<a href="../gone.py#L3">'})),
    (checks.names_exist, lambda n: checks.code(n)[0][1].update(source="import dspark_lab as lab\nlab.plots.pie")),
    (checks.names_exist, lambda n: checks.code(n)[0][1].update(source="from dspark_lab.bench import luck")),
]


@pytest.mark.parametrize("rule, tamper", TAMPERINGS, ids=lambda value: getattr(value, "__name__", ""))
def test_each_rule_can_be_broken(rule, tamper):
    notebook = nbformat.read(WHOLE, as_version=4)
    assert rule(notebook, WHOLE) == []
    tamper(notebook)
    assert rule(notebook, WHOLE)


def test_every_rule_has_a_tampering():
    assert {rule for rule, _ in TAMPERINGS} == set(checks.IN_THE_COURSE)


@pytest.fixture
def lossless(tmp_path):
    """Notebook 03 as far as the cell that compares its own accept rule with the library's: quick to run."""
    notebook = nbformat.read(WHOLE, as_version=4)
    last = next(n for n, cell in checks.code(notebook) if "ours the same as the library's" in str(cell.outputs))
    notebook.cells = notebook.cells[:last]
    nbformat.write(notebook, tmp_path / "whole.ipynb")
    return tmp_path


def nbval(*notebooks, **environment):
    """What .ci/run does with the notebooks: how many cells passed and failed, and all it printed."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", notebooks[0].parent]
    command += ["--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=300", *notebooks]
    paths = os.pathsep.join([str(NOTEBOOKS.parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    run = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths, **environment}
    )
    counts = [re.search(rf"(\d+) {outcome}", run.stdout.splitlines()[-1]) for outcome in ("passed", "failed")]
    return [int(found[1]) if found else 0 for found in counts], run.stdout


def test_nbval_notices_a_tampered_output(lossless):
    notebook = nbformat.read(lossless / "whole.ipynb", as_version=4)
    outputs = [output for _, cell in checks.tagged(notebook) for output in cell.outputs]
    output = next(output for output in outputs if "delivered is p: True" in output.text)
    output.text = output.text.replace("delivered is p: True", "delivered is p: False")
    nbformat.write(notebook, lossless / "tampered.ipynb")
    cells = len(checks.code(notebook))
    (passed, failed), said = nbval(lossless / "whole.ipynb", lossless / "tampered.ipynb")
    assert (passed, failed) == (2 * cells - 1, 1), said
    assert re.search(r"FAILED \S*tampered\.ipynb::Cell", said)


BROKEN = {  # what is put in the place of the library's own, and which claim of the notebook stops it
    "acceptance = lambda p, q: p + 1": "all(same)",  # every draft that was drawn is kept
    "acceptance = lambda p, q: 2 * p / mlx.core.maximum(q, 1e-9)": "AssertionError",  # kept twice as often as is right
    "compare = lambda p, tokens: (mlx.core.array(len(tokens)), mlx.core.argmax(p[-1]))":  # every greedy draft is kept
    "no draft of mode dspark is rejected",
}  # fmt: skip


@pytest.mark.parametrize("rule", BROKEN)
def test_nbval_notices_a_broken_accept_rule(lossless, rule):
    """The library's rule is replaced in every kernel: kernels run what lies in their profile's startup folder."""
    startup = lossless / "profile_default" / "startup"
    startup.mkdir(parents=True)
    patch = f"from dspark_lab import sampling\nimport mlx.core\nsampling.{rule}\n"
    (startup / "broken.py").write_text(patch)
    (_, failed), said = nbval(lossless / "whole.ipynb", IPYTHONDIR=str(lossless))
    assert failed and BROKEN[rule] in said, said
