"""``max_draft="auto"``: each round's draft length from measured costs and from what earlier drafts promised and became.

Before a block is drawn its length is planned: the one with the most expected tokens a second, found among all lengths
at once, so that a step in the cost curve is no trap. After it is drawn, a drafter with a confidence head may have it
cut, left to right. Looking ahead is allowed as far as it uses only what was known before the block was drawn; so the
plan also fixes, for each position, what survival is worth going on with, and the cut merely compares. The output stays
the target's.

To be cut a draft has to be read before its pass begins, and the wait costs something too. So the plan also says whether
cuts, as often as they came of late, would earn it; where they would not, whole drafts are verified unread.
"""

from dataclasses import dataclass
from functools import cached_property

from dspark_lab.curves import Costs
from dspark_lab.schedule import Schedule, scheduled_length, survival_of

MEMORY = 0.975  # what a round counts for, one round later: the last forty make up the estimate
OPTIMISM = 0.8  # what is assumed of position 1 before anything is seen, so that drafting is tried, and tried again
HOPE, UTMOST = 0.05, 0.9  # where only better drafts pay: so much more than break-even is assumed, up to this
WEIGHT = (
    0.6  # rounds that what happened to a draft counts for, and what was foretold of it; 1 where nothing was foretold
)
TRUST = 4  # rounds that an assumption counts for: a miss in a text's first round must not end its drafting


@dataclass(frozen=True)
class Position:
    """What became of one position of earlier drafts, in rounds that fade with time.

    ``asked``: it was drafted, and all before it were worth verifying; ``admitted``: it was so too. ``tried``: it was
    drafted, and all before it were verified and accepted; ``accepted``: it was verified and accepted too. Into the last
    two goes, where there are confidences, what happened and what they foretold, each with WEIGHT: a coin says less of a
    text than seven estimates of the chance it had.
    """

    asked: float = 0.0
    admitted: float = 0.0
    tried: float = 0.0
    accepted: float = 0.0

    def later(self, asked, admitted, tried, accepted):
        """One round later, in which these (0 to 2 * WEIGHT) happened."""
        return Position(
            MEMORY * self.asked + asked,
            MEMORY * self.admitted + admitted,
            MEMORY * self.tried + tried,
            MEMORY * self.accepted + accepted,
        )


@dataclass(frozen=True)
class Auto(Schedule):
    """Plans each round by ``costs`` (a mode's `Costs`) and by what is ``seen``, one Position for each of the block.

    A drafter without a confidence head is planned for by acceptance alone. Where no length pays it plans 0, plain
    decoding; what was seen then fades until drafting looks worth another try.
    """

    costs: Costs
    seen: tuple[Position, ...] = ()

    @property
    def max_draft(self):
        """The planned length of the next draft."""
        return self.plan[0]

    @property
    def reads_draft(self):
        """Whether the next draft is read, so that it can be cut."""
        return self.plan[1]

    def admit(self, k, survival):
        """While the survival, c_1 * ... * c_k, is worth what verifying costs, as planned."""
        return survival[k] >= self.plan[2][k - 1]

    def after(self, round):
        """The schedule for the next round, which has seen ``round``, and also where an unread draft would be cut."""
        drafted, accepted, seen = len(round.drafted), round.accepted, []
        survival = survival_of(round.confidence, drafted)
        admitted = scheduled_length(self, survival)
        for k, position in enumerate(self.positions, 1):
            asked, tried = drafted >= k and admitted >= k - 1, drafted >= k and accepted >= k - 1
            chances = tried, tried and accepted >= k
            if round.confidence and drafted >= k:
                chances = WEIGHT * (chances[0] + survival[k - 1]), WEIGHT * (chances[1] + survival[k])
            seen.append(position.later(asked, asked and admitted >= k, *chances))
        return Auto(self.costs, tuple(seen))

    @property
    def positions(self):
        """``seen``; nothing yet, at first."""
        return self.seen or (Position(),) * self.costs.longest

    @property
    def assumed(self):
        """The acceptance that is assumed of position 1: OPTIMISM, or where that would hardly pay, as much as does.

        On a chip where a second token costs as much as seven more, a drafter has to be very good; it may be. Where it
        would have to be all but perfect, since every token costs, nothing is tried.
        """
        hoped = self.costs.break_even + HOPE
        return hoped if OPTIMISM < hoped <= UTMOST else OPTIMISM

    @cached_property
    def estimates(self):
        """By position, given that those before it were: the chances to be admitted, and to be admitted and accepted.

        Each is what was seen, and TRUST times what is estimated for the position before: with nothing seen, all goes on
        as it began.
        """
        admitted, accepted, found = 1.0, self.assumed, []
        for position in self.positions:
            admitted = (position.admitted + TRUST * admitted) / (position.asked + TRUST)
            accepted = (position.accepted + TRUST * accepted) / (position.tried + TRUST)
            found.append((admitted, accepted))
        return found

    @cached_property
    def plan(self):
        """(draft length, whether to read it, the survival that each of its positions must reach to be verified)."""
        costs = self.costs
        length, reads, best = 0, False, 1 / costs.round(0)
        tokens, seconds, admitted, accepted = 1.0, costs.passes[0], 1.0, 1.0
        for k, (goes_on, succeeds) in enumerate(self.estimates, 1):
            admitted, accepted = admitted * goes_on, accepted * succeeds
            tokens += accepted
            seconds += admitted * (costs.passes[k] - costs.passes[k - 1])
            read, unread = costs.besides[k] + seconds, costs.round(k)
            if tokens / min(read, unread) > best:
                length, reads, best = k, read < unread, tokens / min(read, unread)
        return length, reads, tuple(self.bar(k, length, best) for k in range(1, length + 1))

    def bar(self, k, length, rate):
        """The survival of position ``k``, at most 1, at which verifying from it to wherever is best earns its seconds.

        Verifying k to m costs passes[m] - passes[k - 1] seconds, in which plain going-on makes ``rate`` tokens each. It
        brings survival[k] * (1 + α_k+1 + α_k+1 * α_k+2 + ... to m) tokens, with each α as estimated beforehand.
        """
        passes, brings, chance, bar = self.costs.passes, 0.0, 1.0, 1.0
        for m in range(k, length + 1):
            chance *= self.estimates[m - 1][1] if m > k else 1.0
            brings += chance
            bar = min(bar, rate * (passes[m] - passes[k - 1]) / brings)
        return bar
