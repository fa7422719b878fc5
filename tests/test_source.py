"""What `show_source` shows is what runs: the right text, file and line, readable on a light and on a dark page."""

import functools
import linecache
import re
from html import unescape
from pathlib import Path

import pytest

from dspark_lab import sampling
from dspark_lab.drafters.lookup import Lookup
from dspark_lab.rounds import Round
from dspark_lab.schedule import Cap
from dspark_lab.source import show_source

ROOT = Path(sampling.__file__).parents[1]


def plain(html):
    """The text that a browser would show for ``html``."""
    return unescape(re.sub(r"<[^>]+>", "", html))


def louder(fn):
    """A decorator that keeps ``__wrapped__``."""

    @functools.wraps(fn)
    def wrapper():
        return fn() + "!"

    return wrapper


@functools.cache
@louder
def greet():
    """Markup that must not become markup: <b> & "quotes"."""
    return "hello"


@pytest.mark.parametrize(
    ("shown", "file", "first"),
    [
        (sampling.residual, "dspark_lab/sampling.py", "def residual(p, q):"),
        (Lookup.follow, "dspark_lab/drafters/lookup.py", "def follow(self, text):"),
        (Lookup(8).follow, "dspark_lab/drafters/lookup.py", "def follow(self, text):"),
        (Cap, "dspark_lab/schedule.py", "@dataclass(frozen=True)"),
        (Round.from_dict, "dspark_lab/rounds.py", "@classmethod"),
        (vars(Round)["from_dict"], "dspark_lab/rounds.py", "@classmethod"),
        (Round.accepted_length, "dspark_lab/rounds.py", "@property"),
    ],
    ids=lambda value: getattr(value, "__qualname__", None),
)
def test_file_line_and_text(shown, file, first):
    source = show_source(shown)
    where, line = source.where.split(":")
    lines, code = (ROOT / file).read_text().splitlines(), source.code.splitlines()
    assert where == file and code[0] == first
    assert [text.strip() for text in lines[int(line) - 1 :][: len(code)]] == [text.strip() for text in code]
    compile(source.code, "shown", "exec")  # whole and dedented


def test_the_html_shows_the_same_text_under_a_link_to_the_file(monkeypatch):
    monkeypatch.chdir(ROOT / "tests")
    source = show_source(sampling.accept)
    html = source._repr_html_()
    assert plain(html).rstrip() == source.where + source.code
    line = source.where.split(":")[1]
    assert f'<a href="../dspark_lab/sampling.py#L{line}"' in html
    assert str(ROOT) not in html and str(ROOT) not in repr(source)


def test_a_terminal_gets_plain_text():
    source = show_source(sampling.accept)
    assert repr(source) == f"# {source.where}\n{source.code}"


def test_decorators_are_looked_through_and_markup_is_escaped():
    source = show_source(greet)
    assert source.code.startswith("@functools.cache\n@louder\ndef greet():")
    assert "<b>" in plain(source._repr_html_()) and "<b>" not in source._repr_html_()


def test_it_is_deterministic():
    first, second = show_source(Lookup), show_source(Lookup)
    assert first == second and first._repr_html_() == second._repr_html_()
    assert " at 0x" not in first._repr_html_() + repr(first)


def test_a_function_typed_into_a_notebook_has_no_file_to_link():
    text, name, cell = "def typed(x):\n    return x + 1\n", "<cell 1>", {"__name__": "__main__"}
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)  # as IPython does
    exec(compile(text, name, "exec"), cell)
    source = show_source(cell["typed"])
    assert source.code == text.rstrip() and source.href is None
    assert "href" not in source._repr_html_() and plain(source._repr_html_()).startswith("typed, as typed")


def luminance(colour):
    """The relative luminance (WCAG 2) of a colour like #08f or #0088ff."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
    channels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_every_ink_is_readable_on_the_box_whatever_the_page():
    """Ink and paper are both set inline, and WCAG's contrast of 4.5 holds for all that is not white space."""
    html = show_source(Lookup)._repr_html_()
    boxes = re.findall(r"<(?:div|pre|a) [^>]*>", html)
    assert len(boxes) == 3 and all('style="color: #' in tag and "background: #f8f8f8" in tag for tag in boxes)
    assert all("font-family: monospace" in tag for tag in boxes[1:])  # pages set <pre> in the font of their prose
    inks = set(re.findall(r"[^-]color: (#\w+)[^>]*>(?=\s*[^\s<])", html))
    assert len(inks) > 4
    for ink in inks:
        assert (luminance("#f8f8f8") + 0.05) / (luminance(ink) + 0.05) >= 4.5, ink


@pytest.mark.parametrize("given", [len, int, str.join, 5, None, Cap(2), sampling, Round.__init__, property(len)])
def test_what_has_no_python_source_is_refused(given):
    with pytest.raises(TypeError, match="no Python source to show; give a function, class or method"):
        show_source(given)
