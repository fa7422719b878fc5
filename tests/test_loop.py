"""The loop's bookkeeping, on a target and a drafter that follow a script (tests/fakes.py)."""

import sys

import mlx.core as mx
import pytest
from fakes import VOCAB, ScriptedDrafter, ScriptedTarget, Tape
from hypothesis import given, settings
from hypothesis import strategies as st

from dspark_lab import sampling
from dspark_lab.auto import Auto
from dspark_lab.cost import InTurn
from dspark_lab.curves import Costs, Line
from dspark_lab.decode import decode
from dspark_lab.drafters import Lookup, NoDrafter
from dspark_lab.drafters.protocol import Draft
from dspark_lab.rounds import NO_DRAFT
from dspark_lab.sampling import Sampling, one_hot
from dspark_lab.schedule import Cap, Delayed, HardwareAware, SurvivalThreshold, Threshold, WholeDraft
from dspark_lab.target import watched

SCRIPT = [(37 * n * n + 11 * n) % 251 for n in range(200)]  # no token twice in a row
PROMPT = SCRIPT[:4]


def run(drafter, script=SCRIPT, prompt=PROMPT, schedule=None, max_tokens=20, stop_tokens=()):
    """The rounds of a greedy text, at whose end both caches hold the prompt and all committed tokens but the last."""
    target, rounds, text = ScriptedTarget(script), [], list(prompt)
    for r in decode(target, drafter, prompt, sampling=Sampling(), schedule=schedule or WholeDraft(),
                    max_tokens=max_tokens, stop_tokens=stop_tokens, key=mx.random.key(0)):  # fmt: skip
        assert r.anchor == text[-1]
        text += r.committed
        assert target.cache[0].tokens in (text[:-1], text)  # a pass without a draft may have begun already
        if isinstance(drafter, ScriptedDrafter):
            assert drafter.cache == text[: len(drafter.cache)]
            assert not r.drafted or drafter.cache == text[:-1]  # rounds without a draft wait for one another
        rounds.append(r)
    if isinstance(drafter, ScriptedDrafter):
        assert drafter.cache == text[:-1]
    assert target.cache[0].tokens == text[:-1]
    begun_in_vain = target.passes - len(rounds) - (len(prompt) > 1)
    assert 0 <= begun_in_vain <= (rounds[-1].finish_reason == "stop" and not rounds[-1].drafted)
    return rounds


def committed(rounds):
    return [token for r in rounds for token in r.committed]


@pytest.mark.parametrize("position", [1, 2, 4, 6, 7])
def test_rejection(position):
    """The drafts before it stand, the target's own token corrects it, and the next round starts there."""
    first, second, *_ = run(ScriptedDrafter(SCRIPT, wrong={len(PROMPT) + position - 1}))
    assert (first.accepted, first.scheduled, first.ending) == (position - 1, 7, "correction")
    assert first.committed == SCRIPT[4 : 4 + position]
    assert first.drafted[: position - 1] == SCRIPT[4 : 3 + position]
    assert first.target_probs == pytest.approx([1.0] * (position - 1) + [0.0] + [1.0] * (7 - position))
    assert first.overlap == pytest.approx(first.target_probs)  # p and q are one-hot
    assert first.draft_probs == [1.0] * 7
    assert second.anchor == SCRIPT[3 + position]


def test_full_acceptance():
    rounds = run(ScriptedDrafter(SCRIPT), max_tokens=24)
    assert [(r.accepted, r.ending, r.accepted_length) for r in rounds] == [(7, "bonus", 8)] * 3
    assert committed(rounds) == SCRIPT[4:28]
    assert [r.finish_reason for r in rounds] == [None, None, "length"]


@pytest.mark.parametrize("position", [1, 3, 7])
def test_stop_token_inside_a_draft(position):
    """It ends the text, and the accepted drafts behind it are forgotten."""
    stop = SCRIPT[3 + position]
    (only,) = run(ScriptedDrafter(SCRIPT), stop_tokens={stop})
    assert (only.accepted, only.ending, only.finish_reason) == (7, "stop", "stop")
    assert only.committed == SCRIPT[4 : 4 + position]


@pytest.mark.parametrize(("wrong", "ending"), [({6}, "correction"), ((), "bonus")])
def test_stop_token_of_the_targets_own(wrong, ending):
    """A correction or a bonus may be the stop token; the round is still named for what it was."""
    stop = SCRIPT[6] if wrong else SCRIPT[11]
    (only,) = run(ScriptedDrafter(SCRIPT, wrong=wrong), stop_tokens={stop})
    assert (only.committed[-1], only.ending, only.finish_reason) == (stop, ending, "stop")


@pytest.mark.parametrize("drafter", [ScriptedDrafter(SCRIPT), NoDrafter(), Lookup(VOCAB)])
def test_prompt_of_one_token(drafter):
    assert committed(run(drafter, prompt=SCRIPT[:1])) == SCRIPT[1:21]


@pytest.mark.parametrize("wrong", [(), range(200), range(5, 200, 3)], ids=["right", "wrong", "third"])
def test_max_tokens_is_met_exactly(wrong):
    for n in range(1, 41):
        rounds = run(ScriptedDrafter(SCRIPT, wrong=set(wrong)), max_tokens=n)
        assert committed(rounds) == SCRIPT[4 : 4 + n]
        assert rounds[-1].finish_reason == "length"
        assert all(r.draft_length < n for r in rounds)  # nothing is drafted that could not be kept


@pytest.mark.parametrize(
    ("schedule", "drafted", "scheduled"),
    [
        (WholeDraft(), 7, 7),
        (Cap(3), 3, 3),
        (Cap(0), 0, 0),
        (Cap(9), 7, 7),
        (Threshold(0.6), 7, 2),
        (Threshold(0.6, max_draft=1), 1, 1),
        (Threshold(0.95), 7, 0),
        (SurvivalThreshold(0.7), 7, 1),
        (SurvivalThreshold(0.3), 7, 3),
    ],
)
def test_schedule(schedule, drafted, scheduled):
    """A cap shortens the draft, a threshold what is verified of it; what was not verified was not rejected."""
    confidence = [0.9, 0.7, 0.5, 0.1, 1.0, 1.0, 1.0]
    first = run(ScriptedDrafter(SCRIPT, confidence=confidence), schedule=schedule)[0]
    assert (first.draft_length, first.scheduled, first.accepted) == (drafted, scheduled, scheduled)
    assert len(first.target_probs) == len(first.overlap) == scheduled
    assert len(first.draft_probs) == drafted
    assert first.ending == "bonus"
    if drafted:
        assert first.confidence == pytest.approx(confidence[:drafted])


@pytest.mark.parametrize("forgets", [True, False])
@pytest.mark.parametrize(
    ("drafter", "schedule", "begins"),
    [
        (NoDrafter(), WholeDraft(), [True] * 8 + [False]),
        (ScriptedDrafter(SCRIPT), Cap(0), [True] * 8 + [False]),
        (ScriptedDrafter(SCRIPT), Cap(1), [False] * 5),
        (ScriptedDrafter(SCRIPT), InTurn((0, 0, 2, 0), True), [True, False, False, True, True, True, False]),
        (Lookup(VOCAB), Cap(1), [False] * 9),  # nothing is found now, but who knows what is next
    ],
)
def test_a_pass_without_a_draft_begins_before_its_token_is_read(monkeypatch, forgets, drafter, schedule, begins):
    """Only where no draft can follow, and the cache could take it back, and never beyond the last token."""
    monkeypatch.setattr(Tape, "is_trimmable", lambda self: forgets)
    target, text, begun = ScriptedTarget(SCRIPT), list(PROMPT), []
    options = {"schedule": schedule, "max_tokens": 9, "key": mx.random.key(0)}
    for r in decode(target, drafter, PROMPT, sampling=Sampling(), **options):
        text += r.committed
        begun.append(target.cache[0].tokens == text)
    assert begun == [forgets and early for early in begins]


class Spied:
    """An array of a Draft that notes in ``events`` when Python reads it."""

    def __init__(self, array, events):
        self.array, self.events = array, events

    def tolist(self):
        self.events.append("read")
        return self.array.tolist()


@pytest.mark.parametrize(
    ("schedule", "first"), [(WholeDraft(), "begin"), (Cap(3), "begin"), (Threshold(0.1), "read"), (Cap(0), "begin")]
)
def test_a_pass_waits_for_its_draft_only_where_the_schedule_reads_it(monkeypatch, schedule, first):
    events, propose, forward = [], ScriptedDrafter.propose, ScriptedTarget.forward

    def spied(self, *arguments):
        draft = propose(self, *arguments)
        draft.confidence = Spied(draft.confidence, events)
        return draft

    monkeypatch.setattr(ScriptedDrafter, "propose", spied)
    monkeypatch.setattr(ScriptedTarget, "forward", lambda *arguments: events.append("begin") or forward(*arguments))
    rounds = run(ScriptedDrafter(SCRIPT, confidence=[0.9] * 7), schedule=schedule)
    del events[0]  # the prompt's pass
    if rounds[0].drafted:
        assert events[0] == first and events.count("begin") == len(rounds)
    else:
        assert "read" not in events


@pytest.mark.parametrize("reads", [True, False])
def test_a_draft_without_confidence_is_waited_for_all_the_same(monkeypatch, reads):
    """Or reading it would not keep its time apart from that of its pass."""
    waited, module, draft = [], sys.modules["dspark_lab.decode"], Draft(mx.arange(3) + 1, mx.zeros((3, VOCAB)))
    monkeypatch.setattr(module.mx, "eval", lambda *arrays: waited.extend(arrays))
    assert module.length_to_verify(draft, InTurn((3,), reads)) == 3
    assert [array is draft.tokens for array in waited] == [True] * reads


def test_drafting_ends_when_an_unread_draft_is_computed(monkeypatch):
    """It is waited for once its pass has begun, and before what the pass gives."""
    events, drafts, real = [], [], (ScriptedDrafter.propose, ScriptedTarget.forward, mx.eval)

    def propose(*arguments):
        drafts.append(real[0](*arguments))
        return drafts[-1]

    def wait(*arrays):
        events.append("draft" if drafts and arrays[0] is drafts[-1].tokens else "other")
        real[2](*arrays)

    monkeypatch.setattr(ScriptedDrafter, "propose", propose)
    monkeypatch.setattr(ScriptedTarget, "forward", lambda *arguments: events.append("begin") or real[1](*arguments))
    monkeypatch.setattr(sys.modules["dspark_lab.decode"].mx, "eval", wait)
    run(ScriptedDrafter(SCRIPT), prompt=PROMPT[:1], max_tokens=8)
    assert events[:3] == ["begin", "draft", "other"]


class Fickle(Cap):
    """Announces that after a round without a draft another one follows, and then drafts."""

    def after(self, round):
        return self if round is NO_DRAFT else Cap(3)


def test_a_pass_that_began_early_is_taken_back_if_the_schedule_drafts_after_all():
    target, arguments = ScriptedTarget(SCRIPT), {"sampling": Sampling(), "max_tokens": 10, "key": mx.random.key(0)}
    rounds = list(decode(target, ScriptedDrafter(SCRIPT), PROMPT, schedule=Fickle(0), **arguments))
    assert [r.draft_length for r in rounds[:3]] == [0, 3, 3]
    assert committed(rounds) == SCRIPT[4:14] and target.cache[0].tokens == SCRIPT[:13]


def test_rounds_without_a_draft_reach_the_drafter_together(monkeypatch):
    """Before the next draft, and also where the text is left early; one call each time, however many rounds waited."""
    calls = []
    real = ScriptedDrafter.commit
    record = lambda self, tokens, hidden, cache: (calls.append(len(tokens)), real(self, tokens, hidden, cache))  # noqa: E731
    monkeypatch.setattr(ScriptedDrafter, "commit", record)
    assert (
        committed(run(ScriptedDrafter(SCRIPT), schedule=InTurn((2, 0, 0, 0, 2, 0, 0), False), max_tokens=30))
        == SCRIPT[4:34]
    )
    assert calls[:4] == [3, 3, 3, 3] and len(calls) == 5  # prompt, draft, three that waited, draft, the rest at the end
    drafter = ScriptedDrafter(SCRIPT)
    rounds = decode(ScriptedTarget(SCRIPT), drafter, PROMPT, sampling=Sampling(), schedule=Cap(0), max_tokens=9,
                    key=mx.random.key(0))  # fmt: skip
    for _ in range(3):
        next(rounds)
    assert drafter.cache == SCRIPT[:3]
    rounds.close()
    assert drafter.cache == SCRIPT[:6]


def test_every_round_is_timed_and_whole_distributions_are_kept_only_on_request():
    arguments = {"sampling": Sampling(), "schedule": WholeDraft(), "max_tokens": 8, "key": mx.random.key(0)}
    (plain,) = decode(ScriptedTarget(SCRIPT), ScriptedDrafter(SCRIPT), PROMPT, **arguments)
    (kept,) = decode(ScriptedTarget(SCRIPT), ScriptedDrafter(SCRIPT), PROMPT, **arguments, keep_probs=True)
    assert min(plain.draft_seconds, plain.verify_seconds, plain.other_seconds) > 0
    assert plain.p is None and plain.q is None
    assert kept.p.shape == (8, VOCAB) and kept.q.shape == (7, VOCAB)
    assert type(plain).from_dict(kept.to_dict()).committed == plain.committed


tokens = st.integers(0, 5)  # few, so that stop tokens and repetitions are common
lines = st.builds(Line, st.floats(0.1, 10), st.floats(0, 2))


@settings(max_examples=150, deadline=None)
@given(
    script=st.lists(tokens, min_size=50, max_size=50),
    wrong=st.sets(st.integers(0, 49)),
    prompt_length=st.integers(1, 6),
    draft_length=st.integers(1, 8),
    max_tokens=st.integers(1, 30),
    confidence=st.none() | st.lists(st.floats(0, 1), min_size=8, max_size=8),
    schedule=st.one_of(
        st.just(WholeDraft()),
        st.builds(Cap, st.integers(0, 9)),
        st.builds(Threshold, st.floats(0, 1), st.none() | st.integers(0, 9)),
        st.builds(SurvivalThreshold, st.floats(0, 1), st.none() | st.integers(0, 9)),
        st.builds(HardwareAware, lines, st.none() | st.integers(0, 9)),
        st.builds(Delayed, lines),
        st.builds(Auto, st.builds(Costs, lines, lines, lines, st.just(8), st.sampled_from([0.0, 0.3]))),
    ),
    stop_tokens=st.sets(tokens, max_size=2),
)
def test_greedy_output_is_plain_decodings(
    script, wrong, prompt_length, draft_length, max_tokens, confidence, schedule, stop_tokens
):
    prompt = script[:prompt_length]
    expected = script[prompt_length : prompt_length + max_tokens]
    ends = [i for i, token in enumerate(expected) if token in stop_tokens]
    expected, reason = (expected[: ends[0] + 1], "stop") if ends else (expected, "length")
    for drafter in (ScriptedDrafter(script, draft_length, wrong, confidence), NoDrafter(), Lookup(VOCAB)):
        rounds = run(drafter, script, prompt, schedule, max_tokens, stop_tokens)
        assert committed(rounds) == expected
        assert [r.finish_reason for r in rounds] == [None] * (len(rounds) - 1) + [reason]
        for r in rounds:
            assert r.scheduled <= r.draft_length <= drafter.draft_length
            assert r.accepted <= r.scheduled
            assert r.accepted_length <= r.accepted + 1
            assert (r.ending == "stop") == (r.accepted_length <= r.accepted)


@pytest.mark.parametrize("mode", ["baseline", "lookup", "dspark", "dflash", "dflash16", "eagle3"])
def test_real_caches(golden, monkeypatch, mode):
    """The golden target's cache, and its drafters' own, hold the prompt and the committed tokens but the last."""
    drafter, prompt = golden.drafter(mode), golden.tokenizer.encode("def encode(self, input):")
    caches = golden.target.new_cache(), drafter.new_cache()
    monkeypatch.setattr(golden.target, "new_cache", lambda rollback: caches[0])
    monkeypatch.setattr(drafter, "new_cache", lambda: caches[1])
    held, own = len(prompt) - 1, caches[1]
    for r in decode(golden.target, drafter, prompt, sampling=Sampling(), schedule=WholeDraft(), max_tokens=40,
                    key=mx.random.key(0)):  # fmt: skip
        held += r.accepted_length
        ahead = mode == "baseline" and not r.finish_reason
        assert {layer.offset for layer in caches[0]} == {held + ahead}
        if mode == "lookup":
            assert len(own) == held
        elif mode == "eagle3":  # the last feature waits for the token it is paired with
            assert own.kv.offset == held - 1
        elif mode != "baseline":
            assert {layer.offset for layer in own} == {held}


@pytest.mark.parametrize("mode", ["baseline", "dspark", "eagle3"])
def test_prefill_in_steps(golden, monkeypatch, mode):
    """A long prompt goes in some tokens at a time, with the same result."""
    prompt = golden.tokenizer.encode("def encode(self, input, errors='strict'):")
    arguments = {"sampling": Sampling(), "schedule": WholeDraft(), "max_tokens": 20, "key": mx.random.key(0)}
    whole = list(decode(golden.target, golden.drafter(mode), prompt, **arguments))
    monkeypatch.setattr(sys.modules["dspark_lab.decode"], "PREFILL_STEP", 7)
    steps = list(decode(golden.target, golden.drafter(mode), prompt, **arguments))
    assert [(r.drafted, r.committed) for r in steps] == [(r.drafted, r.committed) for r in whole]


@pytest.mark.parametrize(("device", "starts"), [(mx.cpu, range(1, 13)), (mx.gpu, (5, 10))])
def test_a_pass_is_started_while_it_is_described(monkeypatch, device, starts):
    """After every layer on a CPU; on a GPU, where a start costs a launch, after every fifth. Tapped layers are kept."""
    started, layers = [], [lambda h: h + 1] * 12
    monkeypatch.setattr(mx, "default_device", lambda: device)
    monkeypatch.setattr(mx, "async_eval", started.append)
    with watched(layers, (0, 7)) as outputs:
        h = mx.array(0)
        for layer in layers:
            h = layer(h)
    assert [h.item() for h in started] == list(starts)
    assert {i: h.item() for i, h in outputs.items()} == {0: 1, 7: 8}


@given(data=st.data(), n=st.integers(0, 4), key=st.integers(0, 99))
def test_comparing_tokens_is_the_accept_rule_of_one_hot_distributions(data, n, key):
    """And so greedy decoding may do without coins, residual and draw."""
    own, drafted = (data.draw(st.lists(st.integers(0, 2), min_size=m, max_size=m)) for m in (n + 1, n))
    p, q, tokens = one_hot(mx.array(own), 3), one_hot(mx.array(drafted, mx.uint32), 3), mx.array(drafted, mx.uint32)
    ruled = sampling.judge(p, q, tokens, mx.random.key(key))
    compared = Sampling().judge(Sampling().gist(p), q, tokens, None)
    assert [x.tolist() for x in compared] == [x.tolist() for x in ruled]
    assert [x.shape for x in compared] == [(), (1,)]  # the own token as a pass takes it
    assert Sampling().whole(Sampling().gist(p), 3).tolist() == p.tolist()
