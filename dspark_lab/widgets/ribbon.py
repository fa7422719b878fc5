"""The token ribbon: what was drafted in each round and what became of it, behind a guess."""

import anywidget
import traitlets

from dspark_lab.plots import rounds as drawn
from dspark_lab.widgets.looks import looks


class Ribbon(anywidget.AnyWidget):
    """Rounds of one text, a row each. Before a row shows its fates, the reader says where it will be rejected.

    ``rounds``: Rounds; ``decode``: from a list of token ids to text (a tokenizer's ``decode``). Hovering over a token,
    or moving to it by Tab and the arrow keys, tells its p, q and confidence; Enter or a click is the guess.

    What is shown is kept in traits: ``rows``, a list of tokens a round; ``guesses``, a position for each row shown so
    far (0: all accepted, -1: shown without a guess); ``opened``, the row and column of the token told about;
    ``numbers``, of the rounds in their text: those without a draft have no row.
    """

    _esm, _css = looks("ribbon")
    rows = traitlets.List().tag(sync=True)
    guesses = traitlets.List(traitlets.Int()).tag(sync=True)
    numbers = traitlets.List(traitlets.Int()).tag(sync=True)
    opened = traitlets.List([0, 0]).tag(sync=True)

    def __init__(self, rounds, decode):
        self.rounds, self.decode = rounds, decode
        table = drawn.table_of(rounds, decode, plain=False)
        rows = [[drawn.jsonable(cell) for cell in row] for row in table.values()]
        super().__init__(rows=rows, numbers=list(table))

    def figure(self, limit=16):
        """The same as a static figure, of the first ``limit`` rows."""
        return drawn.ribbon(self.rounds, self.decode, limit, plain=False)
