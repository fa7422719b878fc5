"""How much of a draft to verify.

A schedule is asked left to right, ``admit(k, survival)``, whether to verify position k = 1, 2, ... It sees
``survival[:k + 1]`` alone: survival[0] is 1, and survival[k] is the estimated probability that positions 1 to k are all
accepted, c_1 * ... * c_k. None of these depends on the token drafted at k or on any later one, so no admission looks at
the coin it is about to bet on. That is what keeps the output the target's (paper, section 3.2.2 and appendix A).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate
from operator import mul
from typing import Protocol

from dspark_lab.rounds import Round


class Schedule(Protocol):
    """``max_draft``: a limit known before the draft is made (None: the drafter's whole block); ``admit``: see above.

    ``reads_draft``: whether ``admit`` wants to know this draft's survival. If not it is asked with survivals of 1, and
    the pass begins before the draft is computed. A schedule never changes. One that learns from what happened hands out
    its successor, ``after(round)``.
    """

    max_draft: int | None = None
    reads_draft: bool = True

    def admit(self, k: int, survival: tuple[float, ...]) -> bool:
        """Whether position ``k`` (from 1) is verified, given ``survival[:k + 1]``."""
        ...

    def after(self, round: Round) -> "Schedule":
        """The schedule for the round that follows ``round``; itself, unless it learns.

        Of a round without a draft only that is known when it matters: the loop asks beforehand, with `NO_DRAFT`.
        """
        return self


@dataclass(frozen=True)
class WholeDraft(Schedule):
    """Verify everything that was drafted."""

    max_draft: None = None
    reads_draft = False

    def admit(self, k, survival):
        """Always."""
        return True


@dataclass(frozen=True)
class Cap(Schedule):
    """Draft and verify at most ``max_draft`` tokens. Drafting stops there too: cutting afterwards saves nothing."""

    max_draft: int
    reads_draft = False

    def admit(self, k, survival):
        """Up to the cap."""
        return k <= self.max_draft


@dataclass(frozen=True)
class Threshold(Schedule):
    """Verify while each position's own confidence c_k reaches ``threshold``; 0 drafts are allowed (paper, 4.3.3)."""

    threshold: float
    max_draft: int | None = None

    def admit(self, k, survival):
        """While c_k = survival[k] / survival[k - 1] is at least the threshold."""
        return survival[k] >= self.threshold * survival[k - 1]


@dataclass(frozen=True)
class SurvivalThreshold(Schedule):
    """Verify while the whole prefix's survival a_k = c_1 * ... * c_k reaches ``threshold``: the cumulative form."""

    threshold: float
    max_draft: int | None = None

    def admit(self, k, survival):
        """While survival[k] is at least the threshold."""
        return survival[k] >= self.threshold


@dataclass(frozen=True)
class HardwareAware(Schedule):
    """Algorithm 1 (paper, section 3.2.2): admit the likeliest positions while the expected tokens a second rise.

    ``step_seconds(tokens)``: what a step costs whose pass has so many tokens, the own token of every request among
    them. The search stops at the first position that does not raise the rate: it never sees a later one, whose survival
    depends on the tokens drafted before it. The price is that a curve with a step may stop it too early (`Delayed`).
    """

    step_seconds: Callable[[int], float]
    max_draft: int | None = None

    def admit(self, k, survival):
        """One request: while verifying k drafts promises more tokens a second than verifying k - 1."""
        now, before = sum(survival) / self.step_seconds(k + 1), sum(survival[:k]) / self.step_seconds(k)
        return now > before

    def lengths(self, survivals):
        """How many drafts of each of R requests to verify; ``survivals``: a list for each, its [0] being 1."""
        rates, owners = throughputs(survivals, self.step_seconds)
        rising = next((m for m in range(len(owners)) if rates[m + 1] <= rates[m]), len(owners))
        return [owners[:rising].count(request) for request in range(len(survivals))]


@dataclass(frozen=True)
class Retrospective:
    """WRONG, and kept to show why: the best lengths over all of Algorithm 1's candidates, found after drafting.

    The survival of a later position depends on the token drafted at an earlier one. So this search keeps or drops a
    draft by what it says, and texts that make drafting easy come too often (paper, appendix A). It has no ``admit``:
    nobody who is asked left to right can do this.
    """

    step_seconds: Callable[[int], float]
    max_draft: int | None = None
    reads_draft = True

    def lengths(self, survivals):
        """As `HardwareAware.lengths`, without the early stop."""
        return best_lengths(survivals, self.step_seconds)

    def after(self, round):
        """Itself."""
        return self


@dataclass(frozen=True)
class Delayed(Schedule):
    """Search over all lengths, as `Retrospective` does, but with the survivals of the step before (paper, section 5.2).

    They were known before this step's blocks were drawn, so looking at all of them gives nothing away, and a step in
    the curve is no trap. It also never waits for its own drafter. ``planned``: for one request, the drafts to verify
    next; None, before anything is known, is all. The whole block is drafted, so that the next step knows its survivals.
    """

    step_seconds: Callable[[int], float]
    planned: int | None = None
    reads_draft = False
    delayed = True  # a batch hands `lengths` the survivals of the pass before

    def admit(self, k, survival):
        """One request: up to the planned length, whatever this draft's survivals are."""
        return self.planned is None or k <= self.planned

    def after(self, round):
        """Plans by the confidences of ``round``; one without a draft tells nothing."""
        if not round.drafted:
            return self
        return replace(self, planned=self.lengths([survival_of(round.confidence, len(round.drafted))])[0])

    def lengths(self, survivals):
        """R requests' lengths in this step, given ``survivals`` of the step before: never of the drafts now at hand."""
        return best_lengths(survivals, self.step_seconds)


def throughputs(survivals, step_seconds):
    """Expected tokens a second with the m likeliest drafts of R requests verified, m = 0, 1, ..., and whose they are.

    Survival never rises along a draft, so the likeliest m are always the first few of each request.
    """
    requests = len(survivals)
    drafts = [(s, request) for request, survival in enumerate(survivals) for s in survival[1:]]
    drafts.sort(key=lambda draft: -draft[0])  # stable: of equals, the earlier position comes first
    tokens = accumulate((s for s, _ in drafts), initial=float(requests))
    return [t / step_seconds(requests + m) for m, t in enumerate(tokens)], [request for _, request in drafts]


def best_lengths(survivals, step_seconds):
    """The lengths with the highest expected tokens a second, looking at every candidate."""
    rates, owners = throughputs(survivals, step_seconds)
    chosen = owners[: rates.index(max(rates))]
    return [chosen.count(request) for request in range(len(survivals))]


def survival_of(confidence, draft_length):
    """survival[0] .. survival[draft_length] of ``confidence`` c_1 .. c_γ, or of None: then every c_k is 1."""
    return tuple(accumulate(confidence or [1.0] * draft_length, mul, initial=1.0))


def scheduled_length(schedule, survival):
    """How many drafted positions ``schedule`` admits: it is asked left to right until it first declines.

    ``survival``: survival[0] to survival[γ], as `survival_of` gives them.
    """
    for k in range(1, len(survival)):
        if not schedule.admit(k, survival[: k + 1]):
            return k - 1
    return len(survival) - 1
