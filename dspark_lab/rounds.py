"""One pass through the decode loop, recorded. Metrics, plots and widgets know Rounds, never models."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(kw_only=True)
class Round:
    """What happened between two passes of the target.

    ``anchor``: x0, the last committed token, from which the draft starts. ``drafted``: the draft_length tokens
    proposed; ``draft_probs``: q of each. ``scheduled``: how many of them were verified; the rest are censored, not
    rejected. ``target_probs`` and ``overlap``, one number a scheduled position: p of the drafted token, and
    sum(min(p, q)), the acceptance probability there. ``confidence``: the confidence head's estimate for each drafted
    position, or None. ``accepted``: drafted tokens that the rule accepted. ``committed``: the tokens added to the text,
    in order; its last is named by ``ending``: "bonus" after a full acceptance, "correction" after a rejection, "stop"
    if a stop token inside the draft cut the round short. ``finish_reason``: "stop", "length" or None while it goes on.
    ``text``: what the round added to the text (empty in ``decode``, which knows no tokenizer).

    Times are in seconds. Drafting ends when the draft is computed; where the schedule does not read it, its pass has
    been described and begun by then. ``p`` (scheduled + 1, vocab) and ``q`` (draft_length, vocab) are kept with
    ``keep_probs``.
    """

    anchor: int
    drafted: list[int]
    draft_probs: list[float] = field(default_factory=list)
    scheduled: int
    target_probs: list[float] = field(default_factory=list)
    overlap: list[float] = field(default_factory=list)
    confidence: list[float] | None
    accepted: int
    committed: list[int]
    ending: str
    draft_seconds: float
    verify_seconds: float
    other_seconds: float
    finish_reason: str | None = None
    text: str = ""
    p: Any = field(default=None, repr=False)
    q: Any = field(default=None, repr=False)

    @property
    def draft_length(self):
        """γ: the number of tokens proposed."""
        return len(self.drafted)

    @property
    def accepted_length(self):
        """τ: the number of tokens committed, the target's own included."""
        return len(self.committed)

    @property
    def seconds(self):
        """The whole round's time."""
        return self.draft_seconds + self.verify_seconds + self.other_seconds

    def to_dict(self):
        """Everything but the whole distributions, ready for JSON."""
        record = asdict(self)
        del record["p"], record["q"]
        return record

    @classmethod
    def from_dict(cls, record):
        """The Round that ``to_dict`` wrote."""
        return cls(**record)


NO_DRAFT = Round(  # what a round without a draft is to a schedule, before its token is known
    anchor=-1, drafted=[], scheduled=0, confidence=None, accepted=0,
    committed=[-1], ending="bonus", draft_seconds=0.0, verify_seconds=0.0, other_seconds=0.0,
)  # fmt: skip
