"""Sealed riddles: every fault leaves the text alone and shows by position; every machine prices rounds as it says."""

import json

import numpy as np
import pytest

import dspark_lab as lab
from dspark_lab import metrics, sealed
from dspark_lab.bench.common import TRACES
from dspark_lab.examples import PROMPTS

MODES = ("lookup", "dflash", "dflash16", "eagle3", "dspark")


@pytest.fixture(scope="module")
def own():
    return lab.load_pair(mode="dspark")


@pytest.fixture(scope="module")
def other():
    return lab.load_pair("lab-base", mode="dspark")


@pytest.fixture(scope="module")
def draftings():
    """How each mode fares on code at temperature 0, from the shipped records."""
    cells = json.loads((TRACES / "acceptance.json").read_text())["cells"]
    return {mode: sealed.Drafting.recorded(cells[f"rollouts/code/{mode}/0"]) for mode in MODES}


def overlaps(pair):
    """Mean overlap by position on two sums and a passage, at temperature 1."""
    prompts = [*PROMPTS["math"][:2], PROMPTS["prose"][2]]
    rounds = [r for i, p in enumerate(prompts) for r in lab.stream(pair, p, temperature=1.0, max_tokens=32, seed=i)]
    return np.array([mean.estimate for mean in metrics.overlap_by_position(rounds)])


@pytest.mark.parametrize("fault", sealed.FAULTS)
def test_no_fault_changes_the_text(own, other, fault):
    pair = sealed.with_fault(fault, own, other)
    for prompt in (PROMPTS["math"][4], PROMPTS["code"][0]):
        plain = lab.generate(pair, prompt, "baseline", max_tokens=24)
        assert lab.generate(pair, prompt, max_tokens=24).tokens == plain.tokens


def test_every_fault_costs_acceptance_and_each_in_its_own_way(own, other):
    seen = {fault: overlaps(sealed.with_fault(fault, own, other)) for fault in sealed.FAULTS}
    healthy = overlaps(own)
    for fault, curve in seen.items():
        assert curve.mean() < healthy.mean(), fault
    stale, missing = seen["anchor off by one"], seen["missing context"]
    assert stale[0] < 0.3 and stale[1] > 2 * stale[0]  # the first position alone
    assert missing.max() < 0.45  # all of them
    assert seen["shifted tap"].mean() > seen[sealed.WRONG_TARGET].mean() > missing.mean()


def test_a_faulty_drafter_keeps_what_is_not_at_fault(own, other):
    healthy = own.drafter()
    for fault in ("anchor off by one", "missing context"):
        drafter = sealed.with_fault(fault, own, other).drafter()
        assert (drafter.taps, drafter.draft_length, drafter.mode) == (healthy.taps, 7, "dspark")
        assert drafter.confidence_head is healthy.confidence_head
    assert sealed.with_fault("shifted tap", own, other).drafter().taps == tuple(i - 1 for i in healthy.taps)
    assert own.drafter() is healthy and own.name == "lab"  # the pair given is left as it was


def test_the_first_token_of_all_has_no_anchor_before_it(own, other):
    drafter = sealed.with_fault("anchor off by one", own, other).drafter()
    cache = drafter.new_cache()
    rule, key = lab.Sampling(), lab.sampling.mx.random.key(0)
    alone = drafter.propose(11, 3, cache, rule, key).tokens.tolist()
    assert alone == own.drafter().propose(11, 3, own.drafter().new_cache(), rule, key).tokens.tolist()


def test_a_case_is_drawn_by_its_seed_and_does_not_tell(own, other):
    names = [sealed.case(seed, own, other).reveal() for seed in range(24)]
    assert names == [sealed.case(seed, own, other).reveal() for seed in range(24)]
    assert set(names) == set(sealed.FAULTS)
    assert repr(sealed.case(0, own, other)) == "Case()" and sealed.case(0, own, other).pair.name == "sealed"


def test_an_unknown_fault_is_refused(own, other):
    with pytest.raises(ValueError, match="no fault 'hiccups'; give one of anchor off by one"):
        sealed.with_fault("hiccups", own, other)


def test_drafting_gives_the_recorded_accepted_length(draftings):
    cells = json.loads((TRACES / "acceptance.json").read_text())["cells"]
    for mode, drafting in draftings.items():
        recorded = cells[f"rollouts/code/{mode}/0"]["accepted_length"]["estimate"]
        whole = drafting.tokens(len(drafting.acceptance))
        assert whole == pytest.approx(recorded, rel=0.1), mode  # the last rounds of texts are shorter
        assert drafting.tokens(0) == 1
    assert draftings["lookup"].share < 0.7 < 0.95 < draftings["dspark"].share


def test_a_round_costs_its_draft_and_its_pass():
    taxi = sealed.Machine(lambda n: 0.01 * n, 2.0, "a taxi")
    assert taxi.round("baseline", 0) == taxi.round("dspark", 0) == pytest.approx(0.01)
    assert taxi.round("dspark", 7) == pytest.approx(0.08 + 2 * (0.25 + 0.14) * 0.01)
    assert taxi.round("eagle3", 2) == pytest.approx(0.03 + 2 * 0.25 * 0.01)
    assert taxi.round("lookup", 4) == pytest.approx(0.05)
    with pytest.raises(ValueError, match="mode is 'gated'; this machine knows baseline, lookup"):
        taxi.round("gated", 1)


def test_a_taxi_pays_for_nobody_and_a_bus_for_the_longest(draftings):
    taxi, bus = sealed.Machine(lambda n: 0.01 * n, 1.0, ""), sealed.Machine(lambda n: 0.01, 0.0, "")
    assert taxi.best(draftings)[:2] == ("baseline", 0)
    assert bus.best(draftings)[:2] == ("eagle3", 7)
    assert bus.best(draftings)[2] == pytest.approx(draftings["eagle3"].tokens(7) / 0.01)


def test_rounds_without_a_draft_are_plain(draftings):
    bus, lookup = sealed.Machine(lambda n: 0.01 + 0.001 * n, 1.0, ""), draftings["lookup"]
    seconds = lookup.share * bus.round("lookup", 7) + (1 - lookup.share) * bus.round("lookup", 0)
    assert bus.speed("lookup", lookup, 7) == pytest.approx(lookup.tokens(7) / seconds)
    assert bus.speeds(draftings)["lookup"][7] == bus.speed("lookup", lookup, 7)


def test_live_rounds_are_charged_the_machine_s_price(own):
    bus = sealed.Machine(lambda n: 0.01, 1.0, "")
    rounds = lab.generate(own, PROMPTS["math"][0], max_draft=3, max_tokens=16).rounds
    seconds = sum(bus.round("dspark", r.draft_length) for r in rounds)
    assert bus.priced("dspark", rounds) == pytest.approx(16 / seconds)


def test_machines_are_drawn_by_their_seed_and_do_not_tell(draftings):
    drawn = [sealed.machine(seed) for seed in range(60)]
    assert [m.reveal() for m in drawn] == [sealed.machine(seed).reveal() for seed in range(60)]
    assert len({m.reveal().split("; drafts")[0] for m in drawn}) == len(sealed.CURVES)
    assert all(repr(m) == "Machine()" for m in drawn)
    assert len({m.best(draftings)[0] for m in drawn}) >= 4  # no answer is right on all of them
