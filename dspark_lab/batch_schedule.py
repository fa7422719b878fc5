"""Schedules for several requests at once: how many drafted tokens of each to verify.

``lengths(survivals) -> list[int]``: ``survivals`` has a list a request, survival[0] = 1 to survival[γ], and as many
numbers come back. ``max_draft`` (None, or left out) limits what is drafted beforehand. Whether position k of a request
is verified may depend on its survival[:k + 1] and on other requests; never on its own later survivals, which depend on
the token at k. A schedule with ``delayed = True`` is given the survivals of the pass before, which give nothing away.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dspark_lab.schedule import scheduled_length

WEIGHT, REST = 0.25, 16  # of the latest pass in the average gain; passes without a draft before the next try


@dataclass(frozen=True)
class EachAlone:
    """A ``schedule`` made for one request, asked for every request by itself; one that learns does not learn here."""

    schedule: Any

    @property
    def max_draft(self):
        """The schedule's own."""
        return self.schedule.max_draft

    def lengths(self, survivals):
        """How many positions it admits for each request, asked left to right with ``survival[:k + 1]``."""
        return [scheduled_length(self.schedule, survival) for survival in survivals]


@dataclass
class Columns:
    """Algorithm 1 (paper, section 3.2.2) for a padded pass, where a position costs R tokens whoever needs it.

    So columns are admitted, not single positions: while the expected tokens a second rise, the k-th drafts of all
    requests are verified. It stops at the first column that does not raise them, and never sees a survival beyond.

    By then the draft is paid for, worth it or not. So where the passes' ``gain`` over passes without a draft, averaged,
    falls below 1, nothing is drafted for REST passes; then it tries again. Only earlier passes decide on that.

    ``step_seconds(tokens)``: seconds of a whole pass, its draft included, that computes so many tokens, anchors and
    padding among them; ``plain_seconds(requests)``: of one without a draft.
    """

    step_seconds: Callable[[int], float]
    plain_seconds: Callable[[int], float]
    gain: float = 1.0
    resting: int = 0

    @property
    def max_draft(self):
        """0 while it rests, else None."""
        return 0 if self.resting else None

    def lengths(self, survivals):
        """As many columns for all, or what a request has of them."""
        requests = expected = len(survivals)
        if self.resting:
            self.resting -= 1
            return [0] * requests
        rate, depth = expected / self.step_seconds(requests), 0
        for k in range(1, max(map(len, survivals))):
            expected += sum(survival[k] for survival in survivals if k < len(survival))
            if expected / self.step_seconds(requests * (k + 1)) <= rate:
                break
            rate, depth = expected / self.step_seconds(requests * (k + 1)), k
        self.gain += WEIGHT * (rate * self.plain_seconds(requests) / requests - self.gain)
        self.resting = REST if self.gain < 1 else 0
        return [min(depth, len(survival) - 1) for survival in survivals]
