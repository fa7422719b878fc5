"""Costs as data: seconds by count, what the parts of a round cost, and the recorded curves of other machines.

Nothing here measures (`cost.py` does) and nothing here knows a model. A cost file is JSON as `bench/record.py` writes
it: a stamp of what it was measured on, settings, and the cells "verify" (a Curve, or a Line where only a line was
published) and "rounds/MODE" (Costs). ``traces/cost/`` ships some; those of this machine lie in the cache folder.
"""

import json
from bisect import bisect_left
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from dspark_lab.folders import cache_folder

SHIPPED = Path(__file__).parent / "traces" / "cost"
LINEAR = 0.05  # a line may miss a median by this share of it, or by the median's own uncertainty


@dataclass(frozen=True)
class Line:
    """Seconds = ``intercept`` + ``slope`` * count."""

    intercept: float
    slope: float

    def __call__(self, count):
        """Seconds for ``count``."""
        return self.intercept + self.slope * count


@dataclass(frozen=True)
class Curve:
    """Median ``seconds`` by ``counts`` (tokens of a pass, or of a draft), with quartiles ``low`` and ``high``.

    ``repeats``: measurements behind each median. Called with a count it gives seconds: along a line where the medians
    lie on one, else between the medians, and beyond the last on from it with the line's slope.
    """

    counts: tuple[int, ...]
    seconds: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    repeats: int

    @classmethod
    def of(cls, samples):
        """From ``samples``, a dict: count -> list of seconds, not all equally many."""
        counts = sorted(samples)
        low, seconds, high = np.array([np.percentile(samples[n], [25, 50, 75]) for n in counts]).T.tolist()
        return cls(tuple(counts), tuple(seconds), tuple(low), tuple(high), min(map(len, samples.values())))

    @classmethod
    def from_dict(cls, record):
        """The Curve that ``to_dict`` wrote, or the Line of a record with a ``slope``."""
        if "slope" in record:
            return Line(record["intercept"], record["slope"])
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in record.items()})

    def to_dict(self):
        """Ready for JSON."""
        return asdict(self)

    @cached_property
    def best_line(self):
        """The Line with the least squares of relative misses, whether or not it is a good one; level for one point."""
        if len(self.counts) == 1:
            return Line(self.seconds[0], 0.0)
        slope, intercept = np.polyfit(self.counts, self.seconds, 1, w=1 / np.maximum(self.seconds, 1e-9)).tolist()
        return Line(intercept, slope)

    @cached_property
    def tolerance(self):
        """By how many seconds a line may miss each median, an array: 5 % of it, or twice its own standard error.

        The standard error of a median is about .93 quartile ranges over the root of the repeats (normal noise).
        """
        error = 0.93 * (np.array(self.high) - self.low) / self.repeats**0.5
        return np.maximum(LINEAR * np.array(self.seconds), 2 * error)

    @cached_property
    def line(self):
        """`best_line` if it misses no median by more than `tolerance`; else None.

        Two points are always on a line, so three are asked for.
        """
        if len(self.counts) < 3:
            return None
        missed = np.abs(np.array([self.best_line(n) for n in self.counts]) - self.seconds)
        return self.best_line if (missed <= self.tolerance).all() else None

    def __call__(self, count):
        """Seconds for ``count``."""
        if self.line:
            return self.line(count)
        if count > self.counts[-1]:
            return self.seconds[-1] + max(self.best_line.slope, 0.0) * (count - self.counts[-1])
        right = bisect_left(self.counts, count)
        if right == 0 or self.counts[right] == count:
            return self.seconds[right]
        a, b = self.counts[right - 1 : right + 1]
        share = (count - a) / (b - a)
        return (1 - share) * self.seconds[right - 1] + share * self.seconds[right]


@dataclass(frozen=True)
class Costs:
    """What the parts of one mode's round cost: each a Curve, or anything that gives seconds for a count.

    ``draft``: by draft length; the drafter's pass, its draws, and the context update that the round before left to it.
    ``verify``: by tokens of the target's pass. ``rest``: by draft length; the accept rule, rollback, bookkeeping.
    ``longest``: the longest draft. ``wait``: what of these seconds a round saves whose pass begins before its draft is
    read.
    """

    draft: Curve
    verify: Curve
    rest: Curve
    longest: int
    wait: float = 0.0

    @classmethod
    def from_dict(cls, record):
        """The Costs that ``to_dict`` wrote."""
        curves = {name: Curve.from_dict(record[name]) for name in ("draft", "verify", "rest")}
        return cls(**curves, longest=record["longest"], wait=record.get("wait", 0.0))

    def to_dict(self):
        """Ready for JSON."""
        return asdict(self)

    @cached_property
    def besides(self):
        """Seconds of a round besides its pass, by draft length from 0 to ``longest``."""
        return tuple(self.draft(n) + self.rest(n) for n in range(self.longest + 1))

    @cached_property
    def passes(self):
        """Seconds of a pass that verifies 0 to ``longest`` drafts, the anchor among its tokens."""
        return tuple(self.verify(n + 1) for n in range(self.longest + 1))

    @cached_property
    def break_even(self):
        """The acceptance α, the same at every position, from which on some draft length pays; infinite if none does.

        To a hundredth. A draft of n pays where 1 + α + ... + α^n tokens are more than a round of n costs in plain ones.
        """
        alphas, plain = np.linspace(0, 1, 101), self.round(0)
        tokens = np.cumsum(alphas[:, None] ** np.arange(self.longest + 1), axis=1)
        pays = (tokens[:, 1:] > [self.round(n) / plain for n in range(1, self.longest + 1)]).any(axis=1)
        return float(alphas[pays.argmax()]) if pays.any() else float("inf")

    def round(self, draft_length):
        """Seconds of a round that verifies its ``draft_length`` tokens unread; 0 is plain decoding."""
        if not 0 <= draft_length <= self.longest:
            raise ValueError(f"draft_length is {draft_length}; costs are known from 0 to {self.longest}")
        wait = self.wait if draft_length else 0.0
        return self.besides[draft_length] + self.passes[draft_length] - wait


@dataclass(frozen=True)
class Trace:
    """A cost file. ``stamp``: machine, versions, date, or who published it where; ``settings``: model, precision, ...

    ``verify``: seconds of a pass by its tokens, a Curve or Line, or None; ``rounds``: mode -> Costs.
    """

    name: str
    stamp: dict
    settings: dict
    verify: Curve | Line | None
    rounds: dict[str, Costs]

    @property
    def published(self):
        """Who published it, for a curve that this code did not measure; else None."""
        return self.stamp.get("published_by")

    @classmethod
    def read(cls, file):
        """The Trace in ``file``. Raises ValueError that names a file which is none."""
        try:
            record = json.loads(file.read_text())
            cells = record["cells"]
            verify = Curve.from_dict(cells["verify"]) if "verify" in cells else None
            costs = {name[7:]: Costs.from_dict(cell) for name, cell in cells.items() if name.startswith("rounds/")}
            return cls(file.stem, record["stamp"], record["settings"], verify, costs)
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(
                f"{file} is no cost file ({type(error).__name__}: {error}); delete or replace it"
            ) from None


def load_traces(*folders):
    """Name -> Trace of every cost file in ``folders``; without any, those that ship and those of this machine."""
    places = [Path(folder) for folder in folders] or [SHIPPED, own_folder()]
    return {file.stem: Trace.read(file) for place in places for file in sorted(place.glob("*.json"))}


def own_folder():
    """Where this machine's costs are kept."""
    return cache_folder() / "costs"
