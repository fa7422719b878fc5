"""The accept rule to play with: p and q as bars, tokens drawn by the library's own rule."""

import anywidget
import mlx.core as mx
import traitlets

from dspark_lab import plots, sampling
from dspark_lab.widgets.looks import looks


class AcceptRule(anywidget.AnyWidget):
    """p and q over a few tokens, as bars to drag or to move by the arrow keys; a draw shows accept or residual.

    ``p`` and ``q``: probabilities; ``words``: the tokens' names; ``seed``: of the draws. The reader first guesses the
    share of drafts that will be accepted; then it is shown, and the task is to make it ``goal``.

    Traits: ``p``, ``q``, ``words``, ``goal``; ``guess`` (-1: none yet); ``tally``, [accepted, drawn]; ``counts``, how
    often each token came out; ``drawn``, the last draw: ``drafted`` and ``token`` as numbers, ``chance``, ``accepted``.
    """

    _esm, _css = looks("accept")
    words = traitlets.List().tag(sync=True)
    p = traitlets.List().tag(sync=True)
    q = traitlets.List().tag(sync=True)
    goal = traitlets.Float().tag(sync=True)
    guess = traitlets.Float(-1.0).tag(sync=True)
    tally = traitlets.List([0, 0]).tag(sync=True)
    counts = traitlets.List().tag(sync=True)
    drawn = traitlets.Dict().tag(sync=True)

    def __init__(self, p=(0.45, 0.3, 0.2, 0.05), q=(0.15, 0.5, 0.1, 0.25), words=None, goal=0.6, seed=0):
        words = list(words) if words else [str(i) for i in range(len(p))]
        if not len(p) == len(q) == len(words) or len(p) < 2:
            raise ValueError(
                f"p, q and words have {len(p)}, {len(q)} and {len(words)} entries; give equally many, 2 or more"
            )
        super().__init__(p=list(p), q=list(q), words=words, goal=goal)
        self.key = mx.random.key(seed)
        self.on_msg(lambda widget, content, buffers: self.draw(content["draw"]))

    def draw(self, n=1):
        """Draw ``n`` tokens from q and keep or replace each by the library's rule, ``sampling.accept``."""
        p, q = (mx.array(law) / sum(law) for law in (self.p, self.q))
        accepted, counts = self.tally[0], list(self.counts) or [0] * len(self.words)
        for _ in range(n):
            self.key, draft_key, accept_key = mx.random.split(self.key, 3)
            drafted = sampling.sample(q, draft_key)
            kept, own = sampling.accept(mx.stack([p, p]), q[None], drafted[None], accept_key)
            token = drafted.item() if kept else own
            counts[token] += 1
            accepted += kept
        chance = sampling.acceptance(p, q)[drafted].item()
        last = {"drafted": drafted.item(), "token": token, "chance": chance, "accepted": bool(kept)}
        with self.hold_sync():
            self.drawn, self.counts, self.tally = last, counts, [accepted, self.tally[1] + n]

    @property
    def overlap(self):
        """sum(min(p, q)): the acceptance as the bars stand."""
        return sum(map(min, self.p, self.q))

    def figure(self):
        """The same as a static figure."""
        return plots.accept_rule(self.p, self.q, self.words)
