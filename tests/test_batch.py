"""decode_batch: every request of a batch gets what it would get alone, whoever its neighbours are.

On the golden pair whole Rounds are compared, sampled ones too: a request's key is used in a batch as it is alone, so
that the law is the single request's. On the lab pair greedy texts are compared, and ties of the target's two largest
logits are printed with their margin; and a chi-square test finds the target's law in sampled batches, and not in
broken ones.
"""

from collections import Counter
from dataclasses import replace
from functools import cache

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
import test_lossless_sampled as law
import tiny
from fakes import byte_tokenizer
from mlx_lm.models.cache import KVCache, RotatingKVCache
from prompts import domain_prompts
from remembered import RememberedDrafter, RememberedTarget
from test_lossless_greedy import check, first_difference

import dspark_lab as lab
from dspark_lab import metrics
from dspark_lab.batch import Batch, Request, decode_rows
from dspark_lab.batch_schedule import REST, Columns, EachAlone
from dspark_lab.drafters import load as loading
from dspark_lab.drafters.confidence import ConfidenceHead
from dspark_lab.drafters.load import load_drafter
from dspark_lab.drafters.markov import HEADS
from dspark_lab.rows import RowsKVCache
from dspark_lab.schedule import scheduled_length, survival_of
from dspark_lab.text import TextStream

R = 16
PROMPTS = [[5, 9, 17, 33][: 1 + i % 4] + [i + 3] * (i % 3) for i in range(R)]  # 1 to 6 tokens, some of which repeat
LENGTHS = [2 + 2 * (i * 7 % R) for i in range(R)]
TOLD = ["anchor", "drafted", "scheduled", "accepted", "committed", "ending", "finish_reason", "text"]
TIMES = ("draft_seconds", "verify_seconds", "other_seconds")
MODES = ("baseline", "lookup", "dspark", "dflash", "dflash16", "eagle3")
TOKENS, N_BATCHES = 32, 16


def told(rounds):
    """What must be equal in two runs, exactly."""
    return [[getattr(r, name) for name in TOLD] for r in rounds]


def measured(rounds):
    """What must be equal but for float error: one flat list."""
    fields = ("draft_probs", "target_probs", "overlap", "confidence")
    return [x for r in rounds for name in fields for x in getattr(r, name) or []]


@pytest.fixture(scope="module")
def alone(golden):
    """The Rounds of the golden pair's prompt i by itself, each decoded once."""
    return cache(
        lambda mode, temperature, i: list(
            lab.stream(golden, PROMPTS[i], mode, max_tokens=LENGTHS[i], temperature=temperature, seed=3 + i)
        )
    )


def batched(pair, mode, temperature, size, **options):
    """The passes over all prompts with at most ``size`` at a time."""
    options = {"max_tokens": LENGTHS, "temperature": temperature, "seed": 3, **options}
    return list(lab.decode_batch(pair, PROMPTS, mode, batch_size=size, **options))


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("mode", MODES)
def test_rounds_are_those_of_the_request_alone(golden, alone, mode, temperature):
    for size in range(1, R + 1) if (mode, temperature) == ("dspark", 0) else (3, R):
        passes = batched(golden, mode, temperature, size)
        assert max(len(one.rounds) for one in passes) == size
        got = lab.rounds_by_request(passes)
        assert list(got) == list(range(R))
        for i, rounds in got.items():
            assert told(rounds) == told(alone(mode, temperature, i)), (size, i)
            assert np.allclose(measured(rounds), measured(alone(mode, temperature, i)), atol=1e-4)


def test_neighbours_do_not_matter(golden, alone):
    """Request 0 in three companies, whose own lengths and numbers differ."""
    for others in ([], PROMPTS[5:6], PROMPTS[9:4:-1]):
        prompts, limits = [PROMPTS[0], *others], [LENGTHS[0], *range(3, 3 + len(others))]
        passes = lab.decode_batch(golden, prompts, "dspark", max_tokens=limits, temperature=1.0, seed=3)
        assert told(lab.rounds_by_request(passes)[0]) == told(alone("dspark", 1, 0))


@pytest.mark.parametrize("change", [{"causal": (True, True)}, {"windows": (3, None)}, {"draft_window": 3}])
def test_drafters_whose_layers_do_not_see_everything(golden, monkeypatch, change):
    """They draft row by row, and what they would draft alone."""
    drafter = golden.drafter("dflash")
    assert len(drafter.config.causal) == 2
    monkeypatch.setattr(drafter, "config", replace(drafter.config, **change))
    got = lab.rounds_by_request(batched(golden, "dflash", 1, 5))
    for i, rounds in got.items():
        options = {"max_tokens": LENGTHS[i], "temperature": 1, "seed": 3 + i}
        assert told(rounds) == told(lab.stream(golden, PROMPTS[i], "dflash", **options))


@pytest.mark.parametrize("kind", ["vanilla", "gated", "rnn", "dflash"])
@pytest.mark.parametrize("temperature", [0, 1])
def test_quantized_drafters(golden, golden_folder, monkeypatch, kind, temperature):
    """As on a GPU, where matrices stay quantized, heads included: MLX has no vmap of their products."""
    monkeypatch.setattr(loading, "stays_quantized", lambda dtype: True)
    folder = golden_folder / ("dflash_block7" if kind == "dflash" else f"dspark_{kind}")
    drafter = load_drafter(folder, golden.target, 4)
    if kind != "dflash":  # the golden heads are too narrow to be quantized
        drafter.markov_head, drafter.confidence_head = HEADS[kind](128, 64, 32), ConfidenceHead(64, 32)
        for i, head in enumerate((drafter.markov_head, drafter.confidence_head)):
            tiny.randomize(head, i)
        nn.quantize(drafter.markov_head, 32, 4)
        assert isinstance(drafter.markov_head.markov_w2, nn.QuantizedLinear)
    pair = lab.Pair(golden.target, {"quantized": drafter}, golden.tokenizer, golden.stop_tokens, "quantized")
    got = lab.rounds_by_request(batched(pair, "quantized", temperature, 5))
    for i in range(0, R, 3):
        options = {"max_tokens": LENGTHS[i], "temperature": temperature, "seed": 3 + i}
        expected = list(lab.stream(pair, PROMPTS[i], "quantized", **options))
        assert told(got[i]) == told(expected)
        assert np.allclose(measured(got[i]), measured(expected), atol=1e-4)


def test_accepted_lengths_differ_within_a_pass(golden):
    passes = batched(golden, "dspark", 1.0, R)
    assert max(len({r.accepted_length for r in one.rounds.values()}) for one in passes) >= 3
    for one in passes:
        rounds = list(one.rounds.values())
        assert one.tokens == sum(len(r.committed) for r in rounds)
        assert one.scheduled == sum(r.scheduled for r in rounds) and one.width == 1 + max(r.scheduled for r in rounds)
        assert all(r.seconds == one.seconds for r in rounds)
    own = lab.rounds_by_request(passes)[5]
    assert metrics.tokens_per_second(own) == pytest.approx(LENGTHS[5] / sum(r.seconds for r in own))


@pytest.mark.parametrize("mode", ["dspark", "baseline"])
def test_stop_tokens_inside_drafts(golden, alone, mode):
    """Each request stops at its own stop token and leaves; the others go on. The stop token is one that was drafted."""
    texts = [[token for r in alone("dspark", 0, i) for token in r.committed] for i in range(R)]
    inside = {token for i in range(R) for r in alone("dspark", 0, i) for token in r.committed[:-1]}
    middling = min(sorted(inside), key=lambda token: abs(sum(token in text for text in texts) - R // 2))
    pair = replace(golden, stop_tokens=frozenset([middling]))
    got = lab.rounds_by_request(batched(pair, mode, 0, 6))
    for i, rounds in got.items():
        assert told(rounds) == told(lab.stream(pair, PROMPTS[i], mode, max_tokens=LENGTHS[i], seed=3 + i))
    reasons = {rounds[-1].finish_reason for rounds in got.values()}
    assert reasons == {"stop", "length"}
    assert mode == "baseline" or any(r.ending == "stop" for rounds in got.values() for r in rounds)


def test_stop_strings_and_text(golden):
    """With a tokenizer that makes a character of every token: a string that ends some texts in mid-draft."""
    pair = replace(golden, tokenizer=byte_tokenizer(), stop_tokens=frozenset())
    texts = ["".join(r.text for r in lab.stream(pair, prompt, "dspark", max_tokens=24)) for prompt in PROMPTS]
    pairs = {text[i : i + 2] for text in texts for i in range(len(text) - 1)}
    stop = min(sorted(pairs), key=lambda two: abs(sum(two in text for text in texts) - R // 2))
    got = lab.rounds_by_request(lab.decode_batch(pair, PROMPTS, "dspark", max_tokens=24, stop=stop, batch_size=5))
    for i, rounds in got.items():
        assert told(rounds) == told(lab.stream(pair, PROMPTS[i], "dspark", max_tokens=24, seed=i, stop=stop))
    assert {rounds[-1].finish_reason for rounds in got.values()} == {"stop", "length"}


def test_a_batch_schedule_decides_for_all(golden):
    """It sees a survival a request, which starts at 1 and falls, and what it says is verified, no more."""
    seen = []

    class Budget:
        max_draft = 5

        def lengths(self, survivals):
            seen.append(survivals)
            return [min(i, len(s) - 1) for i, s in enumerate(survivals)]

    passes = batched(golden, "dspark", 1.0, 4, schedule=Budget())
    for survivals, one in zip(seen, passes, strict=True):
        for i, (survival, r) in enumerate(zip(survivals, one.rounds.values(), strict=True)):
            assert survival[0] == 1 and np.allclose(survival[1:], np.cumprod(r.confidence or []))
            assert r.draft_length == len(survival) - 1 <= 5 and r.scheduled == min(i, r.draft_length)


@pytest.mark.parametrize("schedule", [lab.WholeDraft(), lab.Cap(2), lab.Threshold(0.4), lab.SurvivalThreshold(0.2)])
def test_schedules_of_one_request_are_asked_for_each(golden, schedule):
    rounds = [r for one in batched(golden, "dspark", 1.0, R, schedule=schedule) for r in one.rounds.values()]
    lengths = [scheduled_length(schedule, survival_of(r.confidence, r.draft_length)) for r in rounds]
    assert [r.scheduled for r in rounds] == lengths and len(set(lengths)) > 1


def test_each_alone_never_sees_further_than_it_asks():
    class Spy:
        max_draft, seen = None, ()

        def admit(self, k, survival):
            assert len(survival) == k + 1
            return survival[k] > 0.5

    assert EachAlone(Spy()).lengths([[1.0, 0.9, 0.6, 0.4, 0.9], [1.0], [1.0, 0.3], [1, 1, 1]]) == [2, 0, 0, 2]


def test_columns_are_algorithm_1_on_padded_passes():
    """By hand: R = 2, seconds 1, 1.5, 2 for 2, 4, 6 tokens. 2/1; (2 + 1.4)/1.5 is more; (3.4 + .5)/2 is less."""
    schedule = Columns(lambda tokens: {2: 1.0, 4: 1.5, 6: 2.0, 8: 2.0}[tokens], lambda requests: 9.0)
    assert schedule.lengths([[1, 0.9, 0.4, 0.4], [1, 0.5, 0.1, 0.1]]) == [1, 1]
    assert schedule.lengths([[1, 0.9, 0.9, 0.9], [1, 0.9, 0.9]]) == [3, 2]
    assert schedule.lengths([[1, 0.4, 0.4, 0.4], [1, 0.4, 0.4, 0.4]]) == [0, 0]  # three would pay; it does not look
    assert schedule.lengths([[1], [1]]) == [0, 0]


def test_columns_never_use_what_they_must_not():
    """Whatever comes behind the first position not verified, of any request, changes nothing."""
    rng, schedule = np.random.default_rng(0), Columns(lambda tokens: 1 + 0.1 * tokens, lambda requests: 9.0)
    for _ in range(200):
        survivals = np.concatenate([np.ones((3, 1)), np.cumprod(rng.uniform(size=(3, 7)), axis=1)], axis=1)
        lengths = schedule.lengths(survivals.tolist())
        for row, n in enumerate(lengths):
            survivals[row, n + 2 :] = rng.uniform(size=survivals[row, n + 2 :].shape)
        assert schedule.lengths(survivals.tolist()) == lengths


def test_columns_rest_where_drafting_does_not_pay_and_try_again(golden):
    schedule = Columns(lambda tokens: 1.0 + tokens, lambda requests: 0.1)  # a draft never pays
    passes = list(lab.decode_batch(golden, PROMPTS[:1], "dspark", max_tokens=40, schedule=schedule))
    drafted = [one.rounds[0].draft_length > 0 for one in passes]
    assert drafted[:35] == ([True] + [False] * REST) * 2 + [True]
    eager = Columns(lambda tokens: 1.0, lambda requests: 1.0)  # it always does
    passes = lab.decode_batch(golden, PROMPTS[:1], "dspark", max_tokens=40, schedule=eager)
    assert all(one.rounds[0].draft_length for one in list(passes)[:-1])


def test_a_delayed_schedule_is_given_the_survivals_of_the_pass_before(golden):
    seen = []

    class Late:
        delayed = True

        def lengths(self, survivals):
            seen.append(survivals)
            return [99] * len(survivals)

    passes = list(lab.decode_batch(golden, PROMPTS[:2], "dspark", max_tokens=12, schedule=Late()))
    for asked, one, before in zip(seen, passes, [None, *passes]):
        for number, survival in zip(one.rounds, asked):
            if before is None:
                assert set(survival) == {1.0}
            else:
                assert np.allclose(survival[1:], np.cumprod(before.rounds[number].confidence or []))


@pytest.mark.parametrize("lengths", [[1], [0] * 16 + [1], [-1] * 16, [99] * 16])
def test_a_schedule_that_asks_for_nonsense_is_told_so(golden, lengths):
    class Nonsense:
        def lengths(self, survivals):
            return lengths

    with pytest.raises(ValueError, match=r"lengths\(\) must give a number for each request"):
        batched(golden, "dspark", 0, R, schedule=Nonsense())


@pytest.mark.parametrize(
    "prompts, options, message",
    [
        ([], {}, "at least one prompt"),
        ("text", {}, "list"),
        ([[5], [6]], {"max_tokens": [3]}, "as many"),
        ([[5]], {"batch_size": 0}, "batch_size is 0"),
        ([[5], [6]], {"max_tokens": [3, 0]}, "max_tokens is 0"),
        ([[5], [999]], {}, "999"),
        ([[5]], {"mode": "nonsense"}, "nonsense"),
        ([[5], [6]], {"seed": 2**64 - 1}, "seed"),
    ],
)
def test_bad_input_is_refused_at_the_call(golden, prompts, options, message):
    with pytest.raises(ValueError, match=message):
        lab.decode_batch(golden, prompts, **options)


def test_caches_that_do_not_keep_everything_are_refused(golden, monkeypatch):
    monkeypatch.setattr(golden.target, "new_cache", lambda rollback=True: [RotatingKVCache(8)])
    with pytest.raises(ValueError, match="RotatingKVCache"):
        lab.decode_batch(golden, [[5]])


@pytest.mark.parametrize("mode", ["dspark", "dflash", "baseline"])
def test_rows_rolled_back_differently_compute_what_fresh_caches_do(golden, mode):
    """Three texts, one of them empty: a padded pass, each row rolled back by its own number, one let go, a pass."""
    target, taps = golden.target, golden.drafter(mode).taps
    texts, rows = [[5, 9, 17, 33], [], [8, 8]], [RowsKVCache() for _ in target.new_cache()]
    for text in texts:
        cache = target.new_cache()
        if text:
            target.forward(text, cache)
        for row, layer in zip(rows, cache):
            row.add(layer)
    target.run(mx.array([[3, 4, 5], [6, 7, 8], [9, 10, 11]]), rows, taps)
    target.rollback(rows, [0, 1, 3])
    texts = [texts[0] + [3, 4, 5], [6, 7], texts[2]]
    for row in rows:
        row.keep([0, 2])
    logits, hidden = target.run(mx.array([[12, 13], [14, 15]]), rows, taps)
    for i, (text, more) in enumerate([(texts[0], [12, 13]), (texts[2], [14, 15])]):
        cache = target.new_cache()
        target.forward(text, cache)
        alone, states = target.forward(more, cache, taps)
        assert mx.allclose(logits[i], alone, atol=1e-4) and (not taps or mx.allclose(hidden[i], states[0], atol=1e-4))
        assert rows[0].lengths[i] == cache[0].offset


def test_masks():
    rows = RowsKVCache()
    for n in (3, 1):
        cache = KVCache()
        cache.update_and_fetch(mx.zeros((1, 1, n, 2)), mx.zeros((1, 1, n, 2)))
        rows.add(cache)
    causal = [[[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]], [[1, 1, 0, 0, 0], [1, 1, 1, 0, 0]]]
    window = [[[0, 0, 1, 1, 0], [0, 0, 0, 1, 1]], [[1, 1, 0, 0, 0], [0, 1, 1, 0, 0]]]
    block = [[[1, 1, 1, 1, 1]], [[1, 1, 1, 0, 0]]]
    assert rows.make_mask(2)[:, 0].astype(mx.int32).tolist() == causal
    assert rows.make_mask(2, window_size=2)[:, 0].astype(mx.int32).tolist() == window
    assert rows.block_mask(2)[:, 0].astype(mx.int32).tolist() == block
    rows.trim([2, 0])
    assert (rows.make_mask(1), rows.make_mask(2), rows.block_mask(2)) == (None, "causal", None)


@pytest.fixture(scope="module")
def pair():
    """The lab pair."""
    return lab.load_pair()


@pytest.mark.parametrize("mode", ["dspark", "dflash", "dflash16", "lookup", "baseline"])
def test_greedy_texts_of_the_lab_pair(pair, mode):
    """16 prompts of three domains, of 3 to 32 tokens, against each prompt's own text; ties come with their margin."""
    prompts = [prompt for prompts in domain_prompts().values() for prompt in prompts[::6]][:R]
    limits = [TOKENS - (i * 11) % 30 for i in range(R)]
    texts = [lab.generate(pair, p, mode, max_tokens=n).tokens for p, n in zip(prompts, limits)]
    differences, comparisons = [], 0
    for size in (R, 3) if mode == "dspark" else (R,):
        got = lab.rounds_by_request(lab.decode_batch(pair, prompts, mode, max_tokens=limits, batch_size=size))
        for i, rounds in got.items():
            tokens, comparisons = [token for r in rounds for token in r.committed], comparisons + 1
            if found := first_difference(pair, (mode, size, prompts[i]), texts[i], tokens):
                print("tie" if found.tie else "mismatch", found)
                differences.append(found)
    print(f"{mode}: {comparisons} texts, {len(differences)} differ")
    check([found for found in differences if not found.tie], comparisons)
    assert len(differences) <= 1


def test_batches_have_the_targets_law_and_batches_of_one_key_do_not(pair):
    """16 copies of a prompt at a time, a key each; with the same key for all 16, counts come in sixteens."""
    prompt, remembered = pair.tokenizer.encode(law.PROMPT), RememberedTarget(pair.target)
    world = law.pair_world(remembered, RememberedDrafter(pair.drafter("dspark"), pair.target), prompt, law.ONE)
    texts = law.target_law(world)
    assert law.p_value(count(pair, prompt, N_BATCHES, lambda batch, row: batch * R + row), texts) > law.LEVEL
    assert law.p_value(count(pair, prompt, N_BATCHES // 2, lambda batch, row: batch), texts) < law.LEVEL


def count(pair, prompt, batches, seed):
    """How often each text of three tokens comes in so many ``batches`` of R; ``seed(batch, row)`` for each text."""
    counts, schedule = Counter(), EachAlone(lab.WholeDraft())
    for number in range(batches):
        batch = Batch(pair.target, pair.drafter("dspark"), law.ONE, schedule, ())
        keys = [mx.random.key(seed(number, row)) for row in range(R)]
        requests = [
            Request(row, prompt[:-1], prompt[-1], law.DECODED, key, TextStream(None, 0)) for row, key in enumerate(keys)
        ]
        for rounds in lab.rounds_by_request(decode_rows(batch, requests, R)).values():
            counts[tuple([token for r in rounds for token in r.committed][: law.TOKENS])] += 1
    return counts
