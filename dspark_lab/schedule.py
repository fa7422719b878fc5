"""How much of a draft to verify.

A schedule is asked left to right, ``admit(k, survival)``, whether to verify position k = 1, 2, ... It sees
``survival[:k + 1]`` alone: survival[0] is 1, and survival[k] is the estimated probability that positions 1 to k are all
accepted, c_1 * ... * c_k. None of these depends on the token drafted at k or on any later one, so no admission looks at
the coin it is about to bet on. That is what keeps the output the target's (paper, section 3.2.2 and appendix A).
"""

from dataclasses import dataclass
from typing import Protocol


class Schedule(Protocol):
    """``max_draft``: a limit known before the draft is made (None: the drafter's whole block); ``admit``: see above."""

    max_draft: int | None = None

    def admit(self, k: int, survival: list[float]) -> bool:
        """Whether position ``k`` (from 1) is verified, given ``survival[:k + 1]``."""
        ...


@dataclass(frozen=True)
class WholeDraft:
    """Verify everything that was drafted."""

    max_draft: None = None

    def admit(self, k, survival):
        """Always."""
        return True


@dataclass(frozen=True)
class Cap:
    """Draft and verify at most ``max_draft`` tokens. Drafting stops there too: cutting afterwards saves nothing."""

    max_draft: int

    def admit(self, k, survival):
        """Up to the cap."""
        return k <= self.max_draft


@dataclass(frozen=True)
class Threshold:
    """Verify while each position's own confidence c_k reaches ``threshold``; 0 drafts are allowed (paper, 4.3.3)."""

    threshold: float
    max_draft: int | None = None

    def admit(self, k, survival):
        """While c_k = survival[k] / survival[k - 1] is at least the threshold."""
        return survival[k] >= self.threshold * survival[k - 1]


@dataclass(frozen=True)
class SurvivalThreshold:
    """Verify while the whole prefix's survival a_k = c_1 * ... * c_k reaches ``threshold``: the cumulative form."""

    threshold: float
    max_draft: int | None = None

    def admit(self, k, survival):
        """While survival[k] is at least the threshold."""
        return survival[k] >= self.threshold


def scheduled_length(schedule, confidence, draft_length):
    """How many of ``draft_length`` positions ``schedule`` admits: it is asked left to right until it first declines.

    ``confidence``: c_1 .. c_γ as floats, or None where the drafter has no confidence head; every c_k is then 1.
    """
    survival = [1.0]
    for k in range(1, draft_length + 1):
        survival.append(survival[-1] * (confidence[k - 1] if confidence else 1.0))
        if not schedule.admit(k, tuple(survival)):
            return k - 1
    return draft_length
