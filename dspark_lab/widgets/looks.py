"""Where the widgets' drawing code lies."""

from pathlib import Path

HERE = Path(__file__).parent


def looks(name):
    """The JavaScript and the CSS of the widget ``name``, as anywidget takes them: text, nothing to be fetched."""
    return (HERE / "common.js").read_text() + (HERE / f"{name}.js").read_text(), (HERE / "widgets.css").read_text()
