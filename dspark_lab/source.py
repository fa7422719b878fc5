"""Show, in a notebook or a terminal, the very function that runs."""

import inspect
import os
from dataclasses import dataclass
from html import escape
from pathlib import Path
from textwrap import dedent

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

# Every colour is set here, ink and paper alike, so that a dark page changes neither.
BOX = "color: #1a1a1a; background: #f8f8f8; border: 1px solid #b0b0b0; border-radius: 4px; padding: 0.6em 0.8em;"
HEADER = "color: #0b4f8a; background: #f8f8f8; font-family: monospace; text-decoration: underline;"
CODE = (
    "color: #1a1a1a; background: #f8f8f8; margin: 0.5em 0 0; overflow-x: auto; line-height: 1.35; "
    "font-family: monospace; font-size: 13px;"  # exported pages give <pre> the font of their prose
)


@dataclass(frozen=True, repr=False)
class Source:
    """Source text as `show_source` found it; Jupyter draws it highlighted, a terminal prints it plain.

    ``where``: file and first line, as in ``dspark_lab/sampling.py:77``; ``href``: the path from the working folder to
    that file, None where there is no file (a function typed into a notebook); ``code``: dedented, decorators included.
    """

    where: str
    href: str | None
    code: str

    def __repr__(self):
        return f"# {self.where}\n{self.code}"

    def _repr_html_(self):
        where = escape(self.where)
        link = f'<a href="{escape(self.href)}" style="{HEADER}">{where}</a>' if self.href else f"<code>{where}</code>"
        code = highlight(self.code, PythonLexer(), HtmlFormatter(nowrap=True, noclasses=True, style="default"))
        return f'<div style="{BOX}">{link}<pre style="{CODE}">{code}</pre></div>'


def show_source(fn):
    """The Source of ``fn``: a function, class, method or property, also behind decorators that keep ``__wrapped__``.

    Raises TypeError for what has no Python source: built-ins, compiled functions, and objects that are none of these.
    """
    inner = inspect.unwrap(fn.fget if isinstance(fn, property) else fn)
    try:
        if not (inspect.isroutine(inner) or inspect.isclass(inner)):
            raise TypeError
        lines, first = inspect.getsourcelines(inner)
        file = Path(inspect.getsourcefile(inner))
    except (TypeError, OSError):
        given = getattr(inner, "__qualname__", None) or f"an object of type {type(inner).__name__}"
        raise TypeError(
            f"{given} has no Python source to show; give a function, class or method that is written in Python "
            "(not a built-in or compiled one, and not an instance)"
        ) from None
    code = dedent("".join(lines)).rstrip()
    if not file.exists():
        return Source(f"{inner.__qualname__}, as typed in this session", None, code)
    return Source(f"{name_of(file, inner.__module__)}:{first}", f"{os.path.relpath(file)}#L{first}", code)


def name_of(file, module):
    """``file`` from its top-level package on: dspark_lab/sampling.py for the module dspark_lab.sampling."""
    depth = module.count(".") + 1 + (file.name == "__init__.py")
    return Path(*file.parts[-depth:]).as_posix()
