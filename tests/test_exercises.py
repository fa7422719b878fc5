"""The exercises: what a student gets, that it fails until it is solved, and that the hidden tests are worth hiding."""

import copy
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_notebook
from nbgrader.api import Gradebook
from nbgrader.nbgraderformat import MetadataValidator

from dspark_lab.course import clean

EXERCISES = Path(__file__).parent.parent / "notebooks" / "exercises"
NAMES = sorted(path.stem for path in (EXERCISES / "source").glob("*/*.ipynb"))
BLOCK = re.compile(r"[ ]*### BEGIN (SOLUTION|HIDDEN TESTS)\n(.*?)[ ]*### END \1\n?", re.DOTALL)

# Assignment -> mistakes that students make: in which of their cells, and what they write in place of what. Each passes
# the tests that they see below the cell, and fails those that they do not. Calls of the library's own are among them.
ROOT = "mx.sqrt(mx.mean(fused**2, axis=-1, keepdims=True))"
COUNTED = "[owners[:m].count(request) for request in range(len(survivals))]"
GIVEN = "weights, draft_logits, confidence_logits, p, tokens, valid"
WRONG = {
    "01_loop_and_rollback": [
        ("agreeing", {"    for i": "    return sum(a == b for a, b in zip(draft, wanted))\n    for i"}),
        ("rollback", {"    for entry in cache:\n        entry": "    cache[0]"}),
        ("rollback", {"    for entry": "    return target.rollback(cache, n)\n    for entry"}),
        ("one_round", {"wanted[kept]]": "*wanted[kept : len(draft)][:1]]"}),  # forgets the bonus
        ("speculative", {"[: left - 1]": ""}),
    ],
    "03_accept_and_residual": [
        ("acceptance", {"possible = q > 0": "possible = q >= 0"}),
        ("residual", {"mx.where(mass > 0, owed / mx.where(mass > 0, mass, 1.0), p)": "owed"}),
        ("residual", {"    owed =": "    return lab.residual(p, q)\n    owed ="}),
        ("accept", {"residual(p[k], q[k])": "p[k]"}),
        ("accept", {"    for k": "    return lab.accept(p, q, tokens, key)\n    for k"}),
    ],
    "04_context_fusion": [
        ("fuse", {" + eps": ""}),
        ("fuse", {"* mx.rsqrt(mx.mean(fused**2, axis=-1, keepdims=True) + eps)": f"/ ({ROOT} + eps)"}),
        ("keys_values", {"offset=offset": "offset=0"}),
        ("keys_values", {"    heads =": "    return attn.keys_values(x, offset)\n    heads ="}),
        ("block_mask", {"< window": "<= window"}),
        ("attend", {"mask is not None": "False"}),
    ],
    "05_markov_bias": [
        ("markov_bias", {"W1[previous]": "W1[previous.item()]"}),
        ("corrected", {"[anchor, *drafted[:-1]]": "drafted"}),
        ("draw", {"mx.stack(probs)": "sampling.probs(base)"}),  # not the q that the tokens were drawn from
    ],
    "06_confidence_and_sts": [
        ("confidence", {"[anchor, *drafted[:-1]]": "drafted"}),
        ("ece", {"sum(gaps) / len(score)": "np.mean([gaps[i] / (place == i).sum() for i in set(place)])"}),
        ("sts", {"logits[:, k] / temperatures[-1]": "logits[:, k]"}),
        ("sts", {"    product, temp": "    return library_sts(logits, accepted)\n    product, temp"}),
    ],
    "07_algorithm_1": [
        ("candidates", {"requests + m": "1 + m"}),
        ("algorithm_1", {"    m = 0\n": f"    m = rates.index(max(rates))\n    return {COUNTED}\n"}),
        ("algorithm_1", {"] > rates": "] >= rates"}),
        ("algorithm_1", {"    m = 0\n": "    return lab.HardwareAware(step_seconds).lengths(survivals)\n    m = 0\n"}),
        ("admits", {") > sum": ") >= sum"}),
    ],
    "08_l1_loss": [
        ("distance", {".sum(axis=-1)": ".sum()"}),
        ("weighted_mean", {" * valid": " * mx.ones_like(valid)", "(values * weights)": "(values * weights * valid)"}),
        ("block_loss", {"mx.stop_gradient(overlap_of(distance))": "overlap_of(distance)"}),
        ("block_loss", {"    distance =": f"    return losses.block_loss({GIVEN})\n    distance ="}),
    ],
}


def read(step, name, root=EXERCISES):
    """The cells of an assignment in the folder ``step``, "source" or "release"."""
    return nbformat.read(root / step / name / f"{name}.ipynb", as_version=4).cells


def grade_id(cell):
    """The name that nbgrader knows the cell by; "" for one that it leaves alone."""
    return cell.metadata.get("nbgrader", {}).get("grade_id", "")


def graded(cells):
    """The names of the cells that give points."""
    return [grade_id(cell) for cell in cells if cell.metadata.get("nbgrader", {}).get("grade")]


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A teacher's folder in which the one command of README was typed."""
    folder = tmp_path_factory.mktemp("teacher") / "exercises"
    shutil.copytree(EXERCISES, folder, ignore=shutil.ignore_patterns("release", "gradebook.db"))
    nbgrader(folder, "generate_assignment", "*")
    return folder


def nbgrader(folder, *arguments):
    """Run nbgrader in ``folder``."""
    done = subprocess.run([sys.executable, "-m", "nbgrader", *arguments], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


class Kernel:
    """A running kernel that is given cells."""

    def __init__(self):
        resources = {"metadata": {"path": str(EXERCISES)}}
        self.client = NotebookClient(new_notebook(), timeout=120, allow_errors=True, resources=resources)

    def errors(self, cells):
        """Run ``cells`` in order; grade_id -> error of those that raised one."""
        self.client.nb, found = new_notebook(cells=cells), {}
        for i, cell in enumerate(self.client.nb.cells):
            if cell.cell_type == "code":
                self.client.execute_cell(cell, i)
                found |= {grade_id(cell): out.evalue or out.ename for out in cell.outputs if out.output_type == "error"}
        return found


@pytest.fixture(scope="module", params=NAMES)
def solved(request):
    """An assignment, a fresh kernel in which its solution version has run whole, and what went wrong there."""
    kernel = Kernel()
    with kernel.client.setup_kernel():
        yield request.param, kernel, kernel.errors(read("source", request.param))


def test_all_that_the_issue_asks_for_are_there():
    assert [name[:2] for name in NAMES] == ["01", "03", "04", "05", "06", "07", "08"]
    assert set(WRONG) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_student_version_holds_no_answer(course, name):
    source, student = read("source", name), read("release", name, course)
    text = "\n".join(cell.source for cell in student)
    blocks = [(kind, block) for cell in source for kind, block in BLOCK.findall(cell.source)]
    assert {kind for kind, _ in blocks} == {"SOLUTION", "HIDDEN TESTS"}
    for _, block in blocks:
        assert block.strip() not in text, block
    assert "### BEGIN" not in text and "### END" not in text
    assert text.count("raise NotImplementedError  #") == sum(kind == "SOLUTION" for kind, _ in blocks)
    assert graded(student) == graded(source) and not any(cell.get("outputs") for cell in student)


@pytest.mark.parametrize("name", NAMES)
def test_the_committed_version_is_whole(name):
    """Metadata as nbgrader wants it, run in order from a fresh kernel, and enough for nbval to compare."""
    nb = nbformat.read(EXERCISES / "source" / name / f"{name}.ipynb", as_version=4)
    MetadataValidator().validate_nb(nb)
    assert nb == clean(copy.deepcopy(nb)) and nb.metadata.kernelspec.name == "python3"
    code = [cell for cell in nb.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    compared = [cell for cell in code if "nbval-check-output" in cell.metadata.get("tags", [])]
    assert len(compared) >= 5
    assert all([out.get("name") for out in cell.outputs] == ["stdout"] for cell in compared)
    assert set(graded(nb.cells)) <= {grade_id(cell) for cell in compared}
    points = sum(cell.metadata.get("nbgrader", {}).get("points", 0) for cell in nb.cells)
    assert f"{points} points" in nb.cells[0].source


def test_the_solution_passes(solved):
    _, _, errors = solved
    assert errors == {}


def test_hidden_tests_catch_what_visible_ones_let_pass(solved):
    name, kernel, _ = solved
    cells = {grade_id(cell): cell for cell in read("source", name)}
    for answer, changes in WRONG[name]:
        wrong, test = cells[answer].copy(), cells[f"test_{answer}"]
        seen = test.copy()
        for right, instead in changes.items():
            assert right in wrong.source, (answer, right)
            wrong.source = wrong.source.replace(right, instead)
        seen.source = BLOCK.sub("", seen.source)
        assert kernel.errors([wrong, seen]) == {}, f"{wrong.source} does not pass the tests that a student sees"
        assert kernel.errors([wrong, test]).keys() == {grade_id(test)}, f"{wrong.source} passes the hidden tests"
        kernel.errors([cells[answer]])


def test_unsolved_it_earns_nothing(solved, course):
    name, kernel, _ = solved
    student = read("release", name, course)
    assert set(graded(student)) <= kernel.errors(student).keys()


def test_nbgrader_grades_it(course):
    """The teacher's other command: who solved it has all points, who handed it in as it came has none."""
    name = NAMES[1]
    student = nbformat.read(course / "release" / name / f"{name}.ipynb", as_version=4)
    hand_in(course, "unsolved", name, student)
    answers = {grade_id(cell): cell.source for cell in read("source", name)}
    for cell in student.cells:
        if cell.metadata.get("nbgrader", {}).get("solution"):
            cell.source = answers[grade_id(cell)]
    hand_in(course, "solved", name, student)
    nbgrader(course, "autograde", name)
    with Gradebook(f"sqlite:///{course / 'gradebook.db'}", course_id="dspark-lab") as gradebook:
        score = {who: gradebook.find_submission(name, who).score for who in ("solved", "unsolved")}
        assert score == {"solved": gradebook.find_assignment(name).max_score, "unsolved": 0}


def hand_in(course, student, name, nb):
    """Put ``nb`` where nbgrader looks for what ``student`` submitted."""
    folder = course / "submitted" / student / name
    folder.mkdir(parents=True)
    nbformat.write(nb, folder / f"{name}.ipynb")
