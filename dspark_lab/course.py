"""The course's notebooks: where they are, a reader's own copy, and running them all again.

``python -m dspark_lab.course NOTEBOOK ...`` cleans metadata, as the pre-commit hook does.
"""

import shutil
import sys
import time
from pathlib import Path

import nbformat

CELL_SECONDS = 600  # a cell that takes longer hangs
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
KEPT = ("tags", "nbgrader", "jupyter")  # of a cell's metadata; not when it ran, nor what an editor noted there


def find_course():
    """The folder of the course's notebooks, inside the package or beside it in a checkout, or None."""
    package = Path(__file__).parent
    places = (package / "notebooks", package.parent / "notebooks")
    return next((place for place in places if any(place.glob("*.ipynb"))), None)


def notebooks(course):
    """The paths of the course's notebooks, the solved exercises last; those that nbgrader makes are none of them."""
    return [*sorted(course.glob("*.ipynb")), *sorted(course.glob("exercises/source/*/*.ipynb"))]


def copy_course(course, to):
    """Copy the files of ``course`` into the folder ``to``, and leave alone what is there already.

    The exercises' ``source`` stays behind: a reader's copy holds neither the solutions nor the hidden tests.
    """
    for path in sorted(path.relative_to(course) for path in course.rglob("*") if path.is_file()):
        copy = to / path
        if "source" not in path.parts and not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(course / path, copy)


def rerun(course):
    """Run every notebook of ``course`` from a fresh kernel, in place; yields ``(path, seconds)`` as each is done.

    Raises RuntimeError, naming notebook and cell, at the first cell that fails or takes over CELL_SECONDS; that
    notebook's file stays as it was, and so do those behind it.
    """
    for path in notebooks(course):
        start = time.perf_counter()
        nbformat.write(execute(path), path)
        yield path, time.perf_counter() - start


def execute(path):
    """The notebook at ``path``, run from top to bottom in its own folder by a new kernel, and cleaned."""
    from nbclient import NotebookClient
    from nbclient.exceptions import CellControlSignal, DeadKernelError

    notebook, reached = nbformat.read(path, as_version=4), 0
    notebook.metadata.pop("widgets", None)  # those of an earlier run

    def note(cell, cell_index):
        nonlocal reached
        reached = cell_index

    # One output for a stream, however its text dribbled in; no times in the metadata.
    options = {"timeout": CELL_SECONDS, "record_timing": False, "coalesce_streams": True, "on_cell_start": note}
    options["extra_arguments"] = ["--log-level=ERROR"]  # kernels warn that they listen on this machine's own address
    try:
        NotebookClient(
            notebook, kernel_name="python3", resources={"metadata": {"path": path.parent}}, **options
        ).execute()
    except (CellControlSignal, DeadKernelError) as error:
        why = f"{getattr(error, 'ename', type(error).__name__)}: {getattr(error, 'evalue', '') or error}"
        raise RuntimeError(
            f"{path.name} stopped at its cell {reached + 1} of {len(notebook.cells)}, counting all kinds: "
            f"{why.strip().splitlines()[0]}; its file is as it was"
        ) from None
    return clean(notebook)


def clean(notebook):
    """Take out of ``notebook`` what differs from machine to machine; outputs, counts, tags and widgets' state stay.

    Changes it in place and returns it. Cleaning twice is cleaning once.
    """
    kept = {name: notebook.metadata[name] for name in ("language_info", "widgets") if name in notebook.metadata}
    kept.get("language_info", {}).pop("version", None)
    kernel = notebook.metadata.get("kernelspec", {})
    usual = kernel.get("name") == "python3" and kernel.get("display_name") in ("Python 3", KERNEL["display_name"])
    notebook.metadata = nbformat.from_dict({"kernelspec": kernel if usual else KERNEL, **kept})
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({name: cell.metadata[name] for name in KEPT if name in cell.metadata})
    return notebook


def main(paths):
    """Clean the notebooks at ``paths``, in place."""
    for path in paths:
        nbformat.write(clean(nbformat.read(path, as_version=4)), path)


if __name__ == "__main__":
    main(sys.argv[1:])
