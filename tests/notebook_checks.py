"""What every notebook must hold, whatever it is about: one small function a rule, from a notebook to its complaints."""

import ast
import re
from importlib import import_module
from pathlib import Path
from types import ModuleType

from IPython.core.inputtransformer2 import TransformerManager

LONGEST_CELL, FEWEST_CHECKED = 25, 5
MOST_WORDS, MOST_CELLS = 1500, 20  # of a core notebook
PLACES = re.compile(r"(?<![\w.])/(?:home|Users|root|work|tmp|private|var|opt|mnt)/\w|[A-Z]:\\\\?Users")
TROUBLE = re.compile(r"Traceback \(most recent call last\)|Error displaying widget|\w+Warning: ")
OUR_KEYS = {"kernelspec", "language_info", "widgets"}, {"tags", "nbgrader", "jupyter"}


def code(notebook):
    """The code cells that are not empty, each with its number, as the complaints give it."""
    cells = enumerate(notebook.cells, 1)
    return [(n, cell) for n, cell in cells if cell.cell_type == "code" and cell.source.strip()]


def prose(notebook):
    """The text of all Markdown cells."""
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def printed(output):
    """The text of an output, pictures left out: of streams and errors, and of every kind of data that is text."""
    data = [text for kind, text in output.get("data", {}).items() if kind.startswith("text/")]
    texts = [output.get("text", ""), *output.get("traceback", []), *data]
    return re.sub(r"data:image/\w+;base64,[\w+/=]+", "", "\n".join(texts))


def tagged(notebook):
    """The code cells whose output nbval compares."""
    return [(n, cell) for n, cell in code(notebook) if "nbval-check-output" in cell.metadata.get("tags", [])]


def checked_cells_have_outputs(notebook, path):
    """nbval passes a tagged cell that has nothing to compare."""
    return [f"cell {n}" for n, cell in tagged(notebook) if not cell.outputs or cell.execution_count is None]


def enough_is_checked(notebook, path):
    """At least so many cells have an output that nbval compares."""
    return [] if len(tagged(notebook)) >= FEWEST_CHECKED else [f"{len(tagged(notebook))} cells are tagged"]


def figures_are_described(notebook, path):
    """A picture has alternative text, in its metadata and in the HTML that JupyterLab shows; so has one in prose."""
    found = re.findall(r"!\[\s*\]\([^)]*\)", prose(notebook))
    for n, cell in code(notebook):
        for output in cell.outputs:
            html = "".join(output.get("data", {}).get("text/html", ""))
            pictures = [kind for kind in output.get("data", {}) if kind.startswith("image/")]
            described = all(output.metadata.get(kind, {}).get("alt", "").strip() for kind in pictures)
            images = re.findall(r"<img\b[^>]*>", html)
            if (pictures and not (described and images)) or not all(re.search(r'\balt="[^"]', tag) for tag in images):
                found.append(f"a figure of cell {n}")
    return found


def cells_are_short(notebook, path):
    """No code cell is longer than fits on a screen."""
    return [f"cell {n}: {len(lines)} lines" for n, lines in lines_of(notebook) if len(lines) > LONGEST_CELL]


def lines_of(notebook):
    """The lines of each code cell."""
    return [(n, cell.source.splitlines()) for n, cell in code(notebook)]


def was_run_in_order(notebook, path):
    """Every cell was run once, from top to bottom, in a fresh kernel."""
    counts = [cell.execution_count for _, cell in code(notebook)]
    return [] if counts == list(range(1, len(counts) + 1)) else [f"the execution counts are {counts}"]


def core_is_small(notebook, path):
    """A core notebook, 00 to 07, has not too many words or cells; links and HTML do not count."""
    if not re.match(r"0[0-7]_", path.name):
        return []
    text = re.sub(r"<[^>]+>", " ", re.sub(r"!?\[([^]]*)\]\([^)]*\)", r"\1", prose(notebook)))
    words, cells = len(re.findall(r"\S*\w\S*", text)), len(code(notebook))
    return [f"{words} words, {cells} code cells"] if words > MOST_WORDS or cells > MOST_CELLS else []


def nothing_of_the_machine(notebook, path):
    """Neither metadata nor outputs hold paths of the machine that ran it; metadata holds only what cleaning keeps."""
    ours, cells = OUR_KEYS
    found = [f"metadata {name}" for name in set(notebook.metadata) - ours]
    found += [
        f"metadata {cell.metadata} of cell {n}"
        for n, cell in enumerate(notebook.cells, 1)
        if set(cell.metadata) - cells
    ]
    texts = [("metadata", str(notebook.metadata))]
    texts += [(f"cell {n}", printed(output)) for n, cell in code(notebook) for output in cell.outputs]
    return found + [f"{where}: {at.group()}..." for where, text in texts for at in PLACES.finditer(text)]


def nothing_went_wrong(notebook, path):
    """No output is an error, a traceback, a warning or a widget that could not be shown."""
    outputs = [(n, output) for n, cell in code(notebook) for output in cell.outputs]
    return [
        f"cell {n}: {printed(output)[:80]}"
        for n, output in outputs
        if output.output_type == "error" or output.get("name") == "stderr" or TROUBLE.search(printed(output))
    ]


def opens_as_it_should(notebook, path):
    """Its number and title, its question, time and prerequisites, and badges that open this very notebook."""
    first = notebook.cells[0].source
    wanted = {
        "a title with its number": rf"\A# {path.name[:2]} · \w",
        "its question": r"\n\n\*\*[^*]+\?\*\*\n",
        "its time and prerequisites": r"\n\*[^*]*\bAbout [^*]+ (minutes|hour)[^*]+Before it: [^*]+\*\n",
        "Binder": rf"mybinder\.org/v2/gh/dspark-lab/dspark-lab/HEAD\?urlpath=lab/tree/notebooks/{path.name}\)",
        "Colab": rf"colab\.research\.google\.com/github/dspark-lab/dspark-lab/blob/HEAD/notebooks/{path.name}\)",
    }
    return [what for what, pattern in wanted.items() if not re.search(pattern, first)]


def links_lead_somewhere(notebook, path):
    """What prose, and the source code shown, link to by relative paths exists."""
    shown = "\n".join(printed(output) for _, cell in code(notebook) for output in cell.outputs)
    return broken_links(prose(notebook), path) + broken_links(shown, path, r'href="([^"]+)"')


def broken_links(text, path, pattern=r"\]\(([^)\s]+)\)"):
    """The relative links in ``text``, in the file ``path``, that lead to no file."""
    links = [link.split("#")[0] for link in re.findall(pattern, text) if not re.match(r"\w+:|#", link)]
    return [link for link in links if not (Path(path).parent / link).exists()]


def names_exist(notebook, path):
    """Every name that it takes from the library is there: lab.X.Y as far as X is a module, and what it imports."""
    tree = ast.parse("\n".join(TransformerManager().transform_cell(cell.source) for _, cell in code(notebook)))
    assigned = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    modules, missing = {}, []
    for node in ast.walk(tree):
        for alias in getattr(node, "names", []) if isinstance(node, ast.Import | ast.ImportFrom) else []:
            if (getattr(node, "module", None) or alias.name).split(".")[0] == "dspark_lab":
                name, value = imported(node, alias)
                modules[name] = value
                missing += [] if value is not None else [f"{node.module}.{alias.name}"]
    for node in ast.walk(tree):
        root, *names = dotted(node)
        if names and root in modules and root not in assigned and not resolves(modules[root], names):
            missing.append(".".join([root, *names]))
    return sorted(set(missing))


def imported(node, alias):
    """The name that an import of the library binds, and to what; None if that does not exist."""
    if isinstance(node, ast.Import):
        module = import_module(alias.name)
        return (alias.asname, module) if alias.asname else ("dspark_lab", import_module("dspark_lab"))
    try:
        return alias.asname or alias.name, getattr(import_module(node.module), alias.name)
    except AttributeError:
        return alias.asname or alias.name, submodule(f"{node.module}.{alias.name}")


def submodule(name):
    """The module called ``name``, or None."""
    try:
        return import_module(name)
    except ModuleNotFoundError:
        return None


def dotted(node):
    """["lab", "plots", "race"] for the expression lab.plots.race; [None] for what is no such chain."""
    names = []
    while isinstance(node, ast.Attribute):
        names.insert(0, node.attr)
        node = node.value
    return [node.id, *names] if isinstance(node, ast.Name) else [None]


def resolves(value, names):
    """Whether ``value.a.b...`` exists, as far as the values on the way are modules."""
    for name in names:
        if not isinstance(value, ModuleType):
            return True
        if not hasattr(value, name):
            return False
        value = getattr(value, name)
    return True


EVERYWHERE = [  # exercises included
    checked_cells_have_outputs,
    figures_are_described,
    cells_are_short,
    was_run_in_order,
    nothing_of_the_machine,
    nothing_went_wrong,
    links_lead_somewhere,
    names_exist,
]
IN_THE_COURSE = [*EVERYWHERE, enough_is_checked, core_is_small, opens_as_it_should]
