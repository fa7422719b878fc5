"""Sampled: three consecutive tokens of the lab pair have the target's joint law, and a broken loop's do not.

The target's law of the three tokens, at most 3 x 3 x 3 texts since top_k is 3, is computed from its own logits. The
loop then decodes N times, each with a key of its own, and a chi-square test compares the counts with N times the law.
Cells that expect fewer than MIN_EXPECTED texts are pooled. The test rejects at p < LEVEL: by chi-square's own tail one
false alarm in 10**8 tests, which leaves two powers of ten for its being an approximation below 10**-6.

Power is the chance of rejecting a broken loop: the noncentral chi-square's tail beyond the rejection's edge. The
alternatives are the exact laws of the broken loops, enumerated by the toy world from the pair's own p and q.

Passes of the networks are remembered (remembered.py) except in the tests named "live".
"""

from collections import Counter
from functools import cache
from itertools import islice

import mlx.core as mx
import numpy as np
import pytest
from remembered import RememberedDrafter, RememberedTarget
from scipy.stats import chi2, chisquare, ncx2

import dspark_lab as lab
from dspark_lab import sampling
from dspark_lab.auto import Auto, Position
from dspark_lab.curves import Costs, Line
from dspark_lab.decode import decode
from dspark_lab.sampling import Sampling
from dspark_lab.schedule import Cap, Retrospective, SurvivalThreshold, Threshold, WholeDraft
from dspark_lab.toy import ToyWorld, one_round

PROMPT = "It was the whale, and the"  # acceptance is well inside (0, 1) for all three modes
TOKENS = 3  # whose joint law is tested
DECODED = 4  # so that a first draft of three can be accepted whole
N, N_LIVE = 3500, 500
MIN_EXPECTED = 10
LEVEL, FALSE_ALARM, POWER = 1e-8, 1e-6, 0.99
ONE, TWO = Sampling(temperature=1.0, top_k=3), Sampling(temperature=2.0, top_k=3)
WHOLE = WholeDraft()
CUTS = (Position(asked=20.0, admitted=12.0, tried=20.0, accepted=16.0),) * 7  # so often that drafts are read
AUTO = Auto(Costs(draft=Line(0.1, 0.02), verify=Line(1.0, 0.1), rest=Line(0.0, 0.0), longest=7), CUTS)


@pytest.fixture(scope="module")
def pair():
    """The lab pair."""
    return lab.load_pair()


@pytest.fixture(scope="module")
def prompt(pair):
    """The fixed prompt's token ids, without a chat template."""
    return pair.tokenizer.encode(PROMPT)


@pytest.fixture(scope="module")
def remembered(pair):
    """The pair's target, and a function from mode to drafter, that compute each pass once."""
    drafter = cache(lambda mode: RememberedDrafter(pair.drafter(mode), pair.target))
    return RememberedTarget(pair.target), lambda mode: pair.drafter(mode) if mode == "lookup" else drafter(mode)


@pytest.fixture(scope="module")
def world(remembered, prompt):
    """The pair's own p and DSpark's own q, as a toy world's, for a Sampling."""
    return cache(lambda rule: pair_world(remembered[0], remembered[1]("dspark"), prompt, rule))


def pair_world(target, drafter, prompt, rule):
    """``target`` and a DSpark ``drafter`` (vanilla or gated head) after ``prompt`` under ``rule``, as a ToyWorld."""

    @cache
    def p(committed):
        logits, _ = target.forward([*prompt, *committed], target.new_cache())
        return np.array(rule.probs(logits[-1]), np.float64)

    @cache
    def q(committed, drafted):
        text, k = [*prompt, *committed], len(drafted)
        state = drafter.draft_states(text[-1], text[:-1])[0, k]
        bias, _ = drafter.markov_head.step(mx.array([*text, *drafted][-1]), state, None)
        return np.array(rule.probs(drafter.base_logits(state) + bias), np.float64)

    return ToyWorld(p, q)


def target_law(world):
    """Text of three tokens -> its probability under plain decoding."""
    law = {(): 1.0}
    for _ in range(TOKENS):
        law = {(*t, int(x)): law[t] * world.p(t)[x] for t in law for x in np.flatnonzero(world.p(t))}
    return law


def loop_law(world, **broken):
    """Text of three tokens -> its probability under the loop, with ``broken`` in place of the library's own rules."""
    reached = {(): 1.0}
    for n in range(TOKENS):
        for text in [text for text in reached if len(text) == n]:
            chance = reached.pop(text)
            for tokens, share in one_round(world, text, DECODED - n - 1, **broken).items():
                longer = (text + tokens)[:TOKENS]
                reached[longer] = reached.get(longer, 0.0) + chance * share
    return reached


def count(target, drafter, prompt, rule, schedule, n):
    """How often each text of three tokens comes in ``n`` decodes, and the share of verified drafts accepted."""
    counts, accepted, scheduled = Counter(), 0, 0
    for i in range(n):
        tokens, options = [], {"sampling": rule, "schedule": schedule, "max_tokens": DECODED}
        for r in decode(target, drafter, prompt, key=mx.random.key(i), **options):
            tokens += r.committed
            accepted, scheduled = accepted + r.accepted, scheduled + r.scheduled
            if len(tokens) >= TOKENS:
                break
        counts[tuple(islice(tokens, TOKENS))] += 1
    return counts, accepted / max(scheduled, 1)


def cells(law, n):
    """The texts of ``law``, one a cell, but those that ``n`` decodes yield too seldom pooled into the first cell."""
    texts = sorted(law, key=law.get)
    expected = n * np.array([law[text] for text in texts])
    rare = int((expected < MIN_EXPECTED).sum())
    while 0 < expected[:rare].sum() < MIN_EXPECTED:
        rare += 1
    return [pool for pool in (texts[:rare], *([text] for text in texts[rare:])) if pool]


def p_value(counts, law):
    """How probable counts at least this far from ``law`` are; 0 if a text came that the law does not have."""
    if not counts.keys() <= law.keys():
        return 0.0
    n = counts.total()
    observed = [sum(counts[text] for text in pool) for pool in cells(law, n)]
    expected = [n * sum(law[text] for text in pool) for pool in cells(law, n)]
    return chisquare(observed, np.array(expected) * n / sum(expected)).pvalue


def power(law, alternative, n):
    """The chance that ``n`` decodes of a loop with the law ``alternative`` are rejected."""
    pools = cells(law, n)
    null = np.array([sum(law[text] for text in pool) for pool in pools])
    other = np.array([sum(alternative.get(text, 0.0) for text in pool) for pool in pools])
    degrees = len(pools) - 1
    return ncx2.sf(chi2.isf(LEVEL, degrees), degrees, n * np.sum((other - null) ** 2 / null))


# Broken variants: what to patch in the loop, and the same as rules of the toy world.
def argmax_drafts(patch, world):
    """(a) The drafter takes its most probable token and says that it drew it from its soft q."""
    patch.setattr(Sampling, "choose", lambda self, logits, key: (mx.argmax(logits, axis=-1), self.probs(logits)))
    return {"drawn": lambda committed, drafted: np.eye(1, 4096, np.argmax(world.q(committed, drafted)))[0]}


def no_residual(patch, world):
    """(b) The correction is drawn from p."""
    broken = {"residual": lambda p, q: p}
    patch.setattr("dspark_lab.sampling.residual", broken["residual"])
    return broken


def before_temperature(patch, world):
    """(c) Drafts are judged by p and q as they are before temperature 2 divides the logits."""

    def cold(probs):
        return probs**2 / mx.sum(probs**2, axis=-1, keepdims=True)

    def judge(self, p, q, tokens, key):
        coin_key, token_key = mx.random.split(key)
        accepted, _ = sampling.accept(cold(p), cold(q), tokens, coin_key)
        own = sampling.residual(p[accepted], q[accepted]) if accepted < len(q) else p[accepted]
        return mx.array(accepted), sampling.sample(own, token_key)

    patch.setattr(Sampling, "judge", judge)
    return {"acceptance": lambda p, q: sampling.acceptance(cold(p), cold(q))}


def another_q(patch, world):
    """(d) Drafts are drawn from a flatter distribution, of twice the temperature, than the q that is reported."""

    def flat(probs):
        return mx.sqrt(probs) / mx.sum(mx.sqrt(probs), axis=-1, keepdims=True)

    def choose(self, logits, key):
        probs = self.probs(logits)
        return sampling.sample(flat(probs), key), probs

    patch.setattr(Sampling, "choose", choose)
    return {"drawn": lambda committed, drafted: np.array(flat(mx.array(world.q(committed, drafted))), np.float64)}


def looking_back(patch, world):
    """(e) A length chosen after drafting among all of them, with a confidence that the drafted tokens decide."""
    favourite = int(np.argmax(world.q((), ())))

    def confidence(committed, drafted):
        return 0.8 if not drafted else float(drafted[-1] == favourite)

    def all_at_once(schedule, survival):
        return schedule.lengths([survival])[0]

    def of_draft(self, anchor, tokens, states, sampling):
        drafted = tokens.tolist()
        return mx.array([confidence((), drafted[:k]) for k in range(len(drafted))])

    patch.setattr("dspark_lab.drafters.dspark.DSpark.confidence", of_draft)
    patch.setitem(decode.__globals__, "scheduled_length", all_at_once)
    wrong = Retrospective({1: 1 / 1.0, 2: 1 / 0.5, 3: 1 / 0.45, 4: 1 / 0.4}.get)  # appendix A's, and one more
    return {"schedule": wrong, "confidence": confidence, "scheduled_length": all_at_once}


BROKEN = [(argmax_drafts, ONE), (no_residual, ONE), (before_temperature, TWO), (another_q, ONE), (looking_back, ONE)]
SCHEDULES = [("dspark", s) for s in (WHOLE, Cap(1), Threshold(0.5), SurvivalThreshold(0.3))]
SCHEDULES += [("dspark", AUTO)]
SCHEDULES += [(mode, s) for mode in ("dflash", "lookup") for s in (WHOLE, Cap(1))]


def test_the_texts_law_is_well_defined(remembered, prompt, world):
    """Each prefix has three choices, clear of the fourth by far more than float error; the cells are filled."""
    law = target_law(world(ONE))
    assert len(law) == 27 and sum(law.values()) == pytest.approx(1, abs=1e-6)
    for prefix in {text[:n] for text in law for n in range(TOKENS)}:
        logits, _ = remembered[0].forward([*prompt, *prefix], remembered[0].new_cache())
        fourth, third = mx.sort(logits[-1])[-4:-2].tolist()
        assert third - fourth > 1e-3, prefix
    assert len(cells(law, N)) >= 8


def test_the_enumerated_loop_has_the_targets_law(world):
    for rule in (ONE, TWO):
        law, looped = target_law(world(rule)), loop_law(world(rule))
        assert max(abs(law.get(t, 0.0) - looped.get(t, 0.0)) for t in law.keys() | looped.keys()) < 1e-6


def test_false_alarms_are_rarer_than_stated(world):
    """10**6 experiments with the true law; only tails far beyond LEVEL would show, and none may reach it."""
    law, n = target_law(world(ONE)), N_LIVE
    null = np.array([sum(law[text] for text in pool) for pool in cells(law, n)])
    counts = np.random.default_rng(0).multinomial(n, null / null.sum(), size=int(1 / FALSE_ALARM))
    statistics = ((counts - n * null) ** 2 / (n * null)).sum(axis=1)
    assert statistics.max() < chi2.isf(LEVEL, len(null) - 1)


@pytest.mark.parametrize("mode, schedule", SCHEDULES, ids=str)
def test_three_tokens_have_the_targets_law(remembered, prompt, world, mode, schedule):
    counts, share = count(remembered[0], remembered[1](mode), prompt, ONE, schedule, N)
    assert 0.05 < share < 0.95  # both branches of the accept rule are taken, often
    assert p_value(counts, target_law(world(ONE))) > LEVEL


def test_auto_reads_drafts_here_and_cuts_some_shorter_than_others(pair, prompt):
    """Or its law would be tested on drafts verified whole and unread, as WHOLE's is."""
    options = {"sampling": ONE, "schedule": AUTO, "max_tokens": DECODED}
    first = [
        next(decode(pair.target, pair.drafter("dspark"), prompt, key=mx.random.key(i), **options)) for i in range(30)
    ]
    assert AUTO.reads_draft and {r.draft_length for r in first} == {3}
    assert len({r.scheduled for r in first}) > 1


@pytest.mark.parametrize("mode", ["dspark", "dflash", "lookup"])
def test_three_tokens_have_the_targets_law_live(pair, prompt, world, mode):
    counts, _ = count(pair.target, pair.drafter(mode), prompt, ONE, WHOLE, N_LIVE)
    assert p_value(counts, target_law(world(ONE))) > LEVEL


@pytest.mark.parametrize("broken, rule", BROKEN, ids=lambda value: getattr(value, "__name__", ""))
def test_a_broken_loop_is_rejected(remembered, prompt, world, monkeypatch, broken, rule):
    law = target_law(world(rule))
    rules = broken(monkeypatch, world(rule))
    alternative = loop_law(world(rule), **rules)
    assert power(law, alternative, N) >= POWER
    counts, _ = count(remembered[0], remembered[1]("dspark"), prompt, rule, rules.get("schedule", WHOLE), N)
    assert p_value(counts, law) < LEVEL
    assert p_value(counts, {t: share for t, share in alternative.items() if share}) > LEVEL  # it is the law stated
