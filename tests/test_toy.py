"""Lossless, computed: the loop's exact law equals the target's under every schedule and kind of drafter, and the broken
variants' laws do not. Then: the library's real `accept` follows the law that the enumeration gives it.
"""

from collections import Counter
from dataclasses import dataclass
from functools import cache

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from dspark_lab import auto, sampling
from dspark_lab import schedule as schedules
from dspark_lab.auto import Auto, Position
from dspark_lab.curves import Costs, Line
from dspark_lab.schedule import (
    Cap,
    Delayed,
    HardwareAware,
    Retrospective,
    SurvivalThreshold,
    Threshold,
    WholeDraft,
)
from dspark_lab.toy import (
    ToyWorld,
    expected_accepted_length,
    joint,
    one_round,
    phrase_world,
    random_world,
    rounds_after,
    target_joint,
    total_variation,
)

EXACT = 1e-6  # the rules compute in float32
CLEAR = 0.01  # a broken rule is at least this far away in total variation
DRAFTERS = ["independent", "markov", "conditional"]
SCHEDULES = [WholeDraft(), Cap(0), Cap(1), Cap(2), Threshold(0.0), Threshold(0.5), Threshold(0.5, 2), Threshold(2.0)]
SCHEDULES += [SurvivalThreshold(0.4), SurvivalThreshold(0.3, max_draft=2)]


@dataclass(frozen=True)
class Table:
    """Seconds from a list, by tokens of the pass; beyond it the last."""

    seconds: tuple

    def __call__(self, tokens):
        return self.seconds[min(tokens, len(self.seconds)) - 1]


STAIRS = Table((1.0, 1.6, 1.5, 1.55))
CUTS = (Position(asked=20.0, admitted=12.0, tried=20.0, accepted=16.0),) * 3  # so often that drafts are read
AUTO = Auto(Costs(draft=Line(0.1, 0.05), verify=STAIRS, rest=Line(0.02, 0.0), longest=3), CUTS)
SCHEDULES += [HardwareAware(STAIRS), HardwareAware(Line(1.0, 0.2), max_draft=2), Delayed(STAIRS)]
SCHEDULES += [AUTO, Auto(AUTO.costs)]


def constant_world(p, q):
    """A world in which every token is drawn alike, whatever came before."""
    return ToyWorld(lambda committed: np.array(p), lambda committed, drafted: np.array(q))


def erratic(committed, drafted):
    """A confidence that has nothing to do with the truth, and everything with the tokens drafted before."""
    return (0.95, 0.2, 0.6)[(sum(committed) + 2 * sum(drafted) + len(drafted)) % 3]


def distance(world, length=4, draft_length=3, **rules):
    """How far the loop's law is from that of plain decoding."""
    return total_variation(joint(world, length, draft_length, **rules), target_joint(world, length))


def test_every_schedule_of_the_library_is_in_the_list():
    known = [*vars(schedules).values(), *vars(auto).values()]
    classes = {c for c in known if isinstance(c, type) and hasattr(c, "admit")}
    assert classes - {schedules.Schedule} == {type(s) for s in SCHEDULES}


@pytest.mark.parametrize("drafter", DRAFTERS)
@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_the_loop_has_the_targets_law(schedule, drafter):
    for seed in range(3):
        world = random_world(np.random.default_rng(seed), 3, drafter)
        for confidence in (None, world.overlap, erratic):
            law = joint(world, 4, 3, schedule=schedule, confidence=confidence)
            assert law.shape == (3, 3, 3, 3) and law.sum() == pytest.approx(1, abs=EXACT)
            assert total_variation(law, target_joint(world, 4)) < EXACT


@pytest.mark.parametrize("schedule", [AUTO, Auto(AUTO.costs)], ids=["reads", "unread"])
def test_a_draft_is_cut_only_by_a_schedule_that_reads_it(schedule):
    world = random_world(np.random.default_rng(0), 3)
    assert schedule.reads_draft == (schedule is AUTO)
    rounds = [r for r, _ in rounds_after(world, (), 3, schedule=schedule, confidence=lambda *_: 0.01)]
    assert {r.scheduled for r in rounds} == ({0} if schedule.reads_draft else {schedule.max_draft})


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(2, 3), st.integers(0, 3), st.sampled_from(SCHEDULES))
def test_the_loop_has_the_targets_law_in_any_world(data, vocab, draft_length, schedule):
    """Distributions from small whole weights: zeros, certainties (greedy decoding) and ties come often."""
    weights = st.lists(st.integers(0, 4), min_size=vocab, max_size=vocab).filter(any)

    @cache
    def row(*prefix):
        drawn = np.array(data.draw(weights), float)
        return drawn / drawn.sum()

    world = ToyWorld(lambda committed: row(committed), lambda committed, drafted: row(committed, drafted))
    assert distance(world, 3, draft_length, schedule=schedule, confidence=erratic) < EXACT


@pytest.mark.parametrize("drafter", DRAFTERS)
def test_the_length_is_never_exceeded(drafter):
    """The target is never asked what follows the last token, and a round commits 1 to γ + 1 tokens."""
    world = random_world(np.random.default_rng(5), 2, drafter)
    for length in range(1, 5):
        asked = set()
        watched = ToyWorld(lambda text, asked=asked: asked.add(len(text)) or world.p(text), world.q)
        joint(watched, length, 3)
        assert asked == set(range(length))
    for schedule, most in [(WholeDraft(), 4), (Cap(1), 2), (Threshold(2.0), 1), (Threshold(0.0, max_draft=2), 3)]:
        outcomes = one_round(world, (1,), 3, schedule=schedule, confidence=world.overlap)
        assert {len(tokens) for tokens in outcomes} == set(range(1, most + 1))
        assert sum(outcomes.values()) == pytest.approx(1, abs=EXACT)


def test_one_round_by_hand():
    """p = (0.7, 0.3), q = (0.5, 0.5), one draft: token 0 is always kept, token 1 with 0.6, and corrected to 0."""
    outcomes = one_round(constant_world([0.7, 0.3], [0.5, 0.5]), (), 1)
    assert outcomes == pytest.approx({(0, 0): 0.35, (0, 1): 0.15, (1, 0): 0.21, (1, 1): 0.09, (0,): 0.2}, abs=EXACT)
    assert expected_accepted_length(constant_world([0.7, 0.3], [0.5, 0.5]), 1) == pytest.approx(1.8)


def test_plain_decoding_and_total_variation_by_hand():
    world = ToyWorld(lambda committed: np.array([0.1, 0.9] if committed[-1:] == (1,) else [0.6, 0.4]), None)
    assert target_joint(world, 2) == pytest.approx(np.array([[0.36, 0.24], [0.04, 0.36]]))
    assert total_variation(np.array([0.5, 0.5, 0]), np.array([0.2, 0.5, 0.3])) == pytest.approx(0.3)


# Broken variants. Each must differ clearly, or the tests above could not have failed.
def argmax_of(q):
    """Draws q's most probable token, always."""
    return lambda committed, drafted: np.eye(len(q(committed, drafted)))[np.argmax(q(committed, drafted))]


def test_argmax_drafts_with_a_soft_q_are_caught():
    seen_elsewhere = constant_world([0.5, 0.3, 0.2], [0.3, 0.5, 0.2])
    law = joint(seen_elsewhere, 2, 1, drawn=argmax_of(seen_elsewhere.q))
    assert law.sum(axis=1) == pytest.approx([0.4, 0.6, 0.0], abs=EXACT)
    for seed in range(5):
        world = random_world(np.random.default_rng(seed), 3)
        assert distance(world, drawn=argmax_of(world.q)) > CLEAR
        honest = ToyWorld(world.p, argmax_of(world.q))  # the same drafts with the q that they are drawn from
        assert distance(honest) < EXACT


def test_a_correction_drawn_from_p_is_caught():
    law = joint(constant_world([0.7, 0.3], [0.5, 0.5]), 2, 1, residual=lambda p, q: p)
    assert law.sum(axis=1) == pytest.approx([0.64, 0.36], abs=EXACT)
    for seed in range(5):
        assert distance(random_world(np.random.default_rng(seed), 3), residual=lambda p, q: p) > CLEAR


def test_p_and_q_before_temperature_are_caught():
    """Drafts, bonus and wanted law at temperature 0.5; the accept rule and the residual before it."""

    def cold(probs):
        return probs**2 / (probs**2).sum()

    def warm(probs):
        return mx.sqrt(probs) / mx.sum(mx.sqrt(probs))

    def before(rule):
        return lambda p, q: rule(warm(p), warm(q))

    for seed in range(5):
        base = random_world(np.random.default_rng(seed), 3)
        world = ToyWorld(lambda text, w=base: cold(w.p(text)), lambda text, drafted, w=base: cold(w.q(text, drafted)))
        assert distance(world, acceptance=before(sampling.acceptance), residual=before(sampling.residual)) > CLEAR
        assert distance(world) < EXACT


def test_a_q_that_the_drafts_were_not_drawn_from_is_caught():
    for seed in range(5):
        world = random_world(np.random.default_rng(seed), 3)
        other = random_world(np.random.default_rng(seed + 100), 3)
        assert distance(world, drawn=other.q) > CLEAR


# Appendix A's counterexample: a schedule that may look at what was drafted bets after having seen the coin.

APPENDIX_A = {1: 1.0, 2: 1 / 0.5, 3: 1 / 0.45}.get  # seconds of a step: SPS is 1.0, 0.5, 0.45


def knows_token_0_goes_on(committed, drafted):
    """c_1 = 0.8, which is the truth; c_2 says 1 after token 0 and 0 after token 1."""
    return 0.8 if not drafted else float(drafted[-1] == 0)


def whole_sight(schedule, survival):
    """What a retrospective schedule needs in place of `scheduled_length`: all survivals of the draft at once."""
    return schedule.lengths([survival])[0]


WRONG = {"schedule": Retrospective(APPENDIX_A), "scheduled_length": whole_sight}


def test_the_retrospective_scheduler_of_appendix_a():
    """After token 0 it sees survivals 1, 0.8, 0.8 and bets on both (1.17 > 1); after token 1 it verifies nothing."""
    world = constant_world([0.7, 0.3], [0.5, 0.5])
    assert world.overlap((), ()) == pytest.approx(0.8)
    rules = {"confidence": knows_token_0_goes_on}
    law = joint(world, 3, 2, **WRONG, **rules)
    assert law.sum(axis=(1, 2)) == pytest.approx([0.85, 0.15], abs=EXACT)
    ours = joint(world, 3, 2, schedule=HardwareAware(APPENDIX_A), **rules)
    assert ours.sum(axis=(1, 2)) == pytest.approx([0.7, 0.3], abs=EXACT)
    assert distance(world, 3, 2, schedule=Delayed(APPENDIX_A), **rules) < EXACT
    assert total_variation(ours, target_joint(world, 3)) < EXACT


def test_the_retrospective_scheduler_is_caught_in_other_worlds():
    """With the true overlaps as confidence, wherever two drafts pay after one token and none does after another."""
    wrong = WRONG | {"schedule": Retrospective(Table((1.0, 2.0, 1.9)))}
    worlds = [random_world(np.random.default_rng(seed), 3, scale=0.7) for seed in range(8)]
    distances = [distance(world, 3, 2, confidence=world.overlap, **wrong) for world in worlds]
    assert sum(d > CLEAR for d in distances) >= 2, distances


def test_independent_slots_collide_and_a_markov_head_repairs_them():
    independent, markov = phrase_world("independent"), phrase_world("markov")
    assert [expected_accepted_length(independent, n) for n in range(5)] == pytest.approx([1, 2, 2.5, 3, 3.25])
    assert [expected_accepted_length(markov, n) for n in range(5)] == pytest.approx([1, 2, 3, 4, 5])
    assert expected_accepted_length(independent, 1, committed=(0,)) == pytest.approx(2)  # "of" is known: "course"
    assert max(distance(world) for world in (independent, markov)) < EXACT
    with pytest.raises(ValueError, match="'conditional'"):
        phrase_world("conditional")


@pytest.mark.parametrize("drafter", DRAFTERS)
def test_expected_accepted_length_is_a_sum_of_products_of_overlaps(drafter):
    """For one draft it is 1 + sum(min(p, q)); a schedule that admits nothing leaves 1; a longer draft never hurts."""
    world = random_world(np.random.default_rng(7), 3, drafter)
    assert expected_accepted_length(world, 1) == pytest.approx(1 + world.overlap((), ()), abs=EXACT)
    assert expected_accepted_length(world, 3, schedule=Cap(0)) == pytest.approx(1)
    lengths = [expected_accepted_length(world, n) for n in range(4)]
    assert lengths == sorted(lengths)
    assert expected_accepted_length(world, 3, schedule=Cap(2)) == pytest.approx(lengths[2])


def test_a_random_world_is_the_same_in_whatever_order_it_is_asked():
    texts = [(), (0,), (0, 0), (1, 2)]
    one, two = (random_world(np.random.default_rng(3), 3) for _ in range(2))
    assert np.array([one.p(t) for t in texts]).tolist() == [two.p(t).tolist() for t in texts[::-1]][::-1]
    assert len({tuple(one.p(t)) for t in texts}) == len(texts)
    other = random_world(np.random.default_rng(4), 3)
    assert not np.allclose(one.p(()), other.p(()))
    with pytest.raises(ValueError, match="'eagle'"):
        random_world(np.random.default_rng(0), 3, "eagle")


@pytest.mark.parametrize(
    ("drafter", "knows"), [("independent", (False, False)), ("markov", (True, False)), ("conditional", (True, True))]
)
def test_what_each_drafter_knows_of_its_draft(drafter, knows):
    """Whether q at position 3 depends on the token before, and on the one before that."""
    q = random_world(np.random.default_rng(3), 3, drafter).q
    assert (
        not np.allclose(q((1,), (0, 1)), q((1,), (0, 2))),
        not np.allclose(q((1,), (0, 1)), q((1,), (2, 1))),
    ) == knows
    assert not np.allclose(q((1,), (0, 1)), q((2,), (0, 1)))


# The library's real accept rule, by chance.

ROUNDS = 6_000
FALSE_ALARM = 1e-6


def rounds_of_accept(world, draft_length, seed, drawn=None):
    """How often `sampling.accept` committed which tokens in ROUNDS rounds after the empty text; a Counter."""
    rng, drawn = np.random.default_rng(seed), drawn or world.q

    @cache
    def distributions(draft):
        p = [world.p(draft[:k]) for k in range(draft_length + 1)]
        q = [world.q((), draft[:k]) for k in range(draft_length)]
        return mx.array(np.array(p), mx.float32), mx.array(np.array(q), mx.float32), mx.array(draft)

    seen = Counter()
    for key in mx.random.split(mx.random.key(seed), ROUNDS):
        draft = ()
        while len(draft) < draft_length:
            probs = drawn((), draft)
            draft += (int(rng.choice(len(probs), p=probs)),)
        accepted, own = sampling.accept(*distributions(draft), key)
        seen[*draft[:accepted], own] += 1
    return seen


def chance_of(seen, law):
    """The p-value of ``seen`` under ``law``; cells that expect fewer than 10 are joined, impossible ones refute it."""
    if set(seen) - set(law):
        return 0.0
    cells = [(seen[tokens], share * ROUNDS) for tokens, share in law.items()]
    kept, rare = [c for c in cells if c[1] >= 10], [c for c in cells if c[1] < 10]
    observed, expected = np.array([*kept, *([np.sum(rare, axis=0)] if rare else [])]).T
    return chisquare(observed, expected * observed.sum() / expected.sum()).pvalue


@pytest.mark.parametrize("drafter", DRAFTERS)
def test_the_real_accept_rule_follows_the_enumerated_law(drafter):
    """Keys are fixed; over keys, each of these three would raise a false alarm about once in a million."""
    world = random_world(np.random.default_rng(11), 3, drafter)
    assert chance_of(rounds_of_accept(world, 2, seed=1), one_round(world, (), 2)) > FALSE_ALARM


def test_the_same_test_rejects_broken_rules():
    world = random_world(np.random.default_rng(11), 3)
    seen = rounds_of_accept(world, 2, seed=1)
    assert chance_of(seen, one_round(world, (), 2, residual=lambda p, q: p)) < FALSE_ALARM
    broken = rounds_of_accept(world, 2, seed=1, drawn=argmax_of(world.q))
    assert chance_of(broken, one_round(world, (), 2)) < FALSE_ALARM
    assert chance_of(broken, one_round(world, (), 2, drawn=argmax_of(world.q))) > FALSE_ALARM
