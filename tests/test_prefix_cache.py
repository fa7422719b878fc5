"""Earlier turns are reused, give what a cold start gives, and are never trusted."""

import random
import sys

import mlx.core as mx
import pytest
import tiny
from mlx_lm.models.cache import RotatingKVCache

import dspark_lab as lab
from dspark_lab.decode import new_caches
from dspark_lab.drafters.load import load_drafter
from dspark_lab.pair import load_target
from dspark_lab.prefix_cache import PrefixCache, common_prefix
from dspark_lab.rollback import SLACK

MODES = ["baseline", "lookup", "dspark", "dflash", "dflash16", "eagle3"]
TOKENS = 16


@pytest.fixture(scope="module")
def prompts(golden):
    """A prompt, and what a user might add to it."""
    encode = golden.tokenizer.encode
    return encode("def encode(self, input, errors='strict'):"), encode("    return input\n\ndef decode(self):")


def cold(pair, prompt, mode, **options):
    """The Result without any cache."""
    return lab.generate(pair, prompt, mode, **{"max_tokens": TOKENS, **options})


def warm(cache, prompt, mode, **options):
    """The Result with ``cache``, after comparing all of it but the times with a cold one's."""
    result = cold(cache.pair, prompt, mode, prefix_cache=cache, **options)
    expected = cold(cache.pair, prompt, mode, **options)
    if result.tokens != expected.tokens:
        at = common_prefix(result.tokens, expected.tokens)
        logits, _ = cache.pair.target.forward(prompt + expected.tokens[:at], cache.pair.target.new_cache())
        second, first = mx.sort(logits[-1])[-2:].tolist()
        pytest.fail(f"warm and cold differ from token {at} on; the two largest logits are {first - second:.2g} apart")
    assert [(r.drafted, r.accepted, r.text) for r in result.rounds] == [
        (r.drafted, r.accepted, r.text) for r in expected.rounds
    ]
    return result


def reused(cache, prompt, mode, **options):
    """How many tokens ``cache`` saved a prompt, which it answers as a cold start would."""
    before = cache.counts.reused_tokens
    warm(cache, prompt, mode, **options)
    return cache.counts.reused_tokens - before


@pytest.mark.parametrize("mode", MODES)
def test_follow_up_turns(golden, prompts, mode):
    """A follow-up reuses all that was said, a changed turn all that is the same; EAGLE-3 cuts at the token before."""
    cache, (prompt, more) = PrefixCache(golden), prompts
    assert reused(cache, prompt, mode) == 0
    answer = cold(golden, prompt, mode).tokens
    held = len(prompt) + TOKENS - 1  # the last token was never seen by the caches
    assert reused(cache, prompt + answer + more, mode) == held
    assert len(cache) == 1  # the longer text took the shorter one's place
    branch = prompt + answer[:5] + [answer[5] ^ 1] + more
    cut = 1 if mode == "eagle3" else 0
    assert reused(cache, branch, mode) == len(prompt) + 5 - cut
    assert reused(cache, prompt + answer + more, mode) == len(prompt + answer + more) - 1 - cut  # not spoilt by it
    assert len(cache) == 2


def test_each_mode_has_its_own(golden, prompts):
    cache = PrefixCache(golden)
    warm(cache, prompts[0], "dspark")
    assert reused(cache, prompts[0], "dflash") == 0
    assert len(cache) == 2


def test_two_drafters_of_one_kind(golden, golden_folder, prompts):
    """A drafter is known by its name in the pair: two DSpark drafters do not take each other's caches for their own."""
    drafters = {name: load_drafter(golden_folder / f"dspark_{name}", golden.target) for name in ("vanilla", "gated")}
    cache, (prompt, more) = PrefixCache(lab.Pair(golden.target, drafters, golden.tokenizer, name="two")), prompts
    assert reused(cache, prompt, "vanilla") == 0
    assert reused(cache, prompt + more, "gated") == 0
    assert reused(cache, prompt + more, "vanilla") > 0
    assert reused(cache, prompt + more + more, "gated") > 0


def test_random_conversations(golden, prompts):
    """Forty turns that go on, branch off, begin anew, stop early or are sampled, through little memory."""
    draw, cache = random.Random(0), PrefixCache(golden, max_bytes=2_000_000)
    texts = [prompts[0]]
    for _ in range(40):
        base = draw.choice(texts)
        cut = draw.choice([len(base), draw.randrange(1, len(base) + 1)])
        prompt = (base[:cut] + draw.choices(range(3, 128), k=draw.randrange(1, 12)))[-400:]
        mode, most = draw.choice(MODES), draw.randrange(1, 24)
        result = warm(cache, prompt, mode, max_tokens=most, temperature=draw.choice([0, 0, 1]), seed=draw.randrange(9))
        texts.append(prompt + result.tokens)
        assert cache.nbytes <= cache.max_bytes
    assert cache.counts.hits > 10 and cache.counts.evicted > 0 and cache.counts.damaged == 0


def test_the_least_recently_used_goes_first(golden, prompts):
    size = PrefixCache(golden)
    warm(size, prompts[0], "dspark")
    cache = PrefixCache(golden, max_bytes=int(2.4 * size.nbytes))  # a text that went on from a copy has grown a little
    one, two, three = ([token, *prompts[0]] for token in (5, 6, 7))
    warm(cache, one, "dspark")
    warm(cache, two, "dspark")
    assert reused(cache, one, "dspark") > 0
    warm(cache, three, "dspark")
    assert len(cache) == 2 and cache.counts.evicted == 1
    assert reused(cache, one, "dspark") > 0
    assert reused(cache, two, "dspark") == 0


def test_a_stranger_makes_no_old_conversation_young(golden, prompts):
    """A new text that shares only a template's beginning with all of them is no use of the oldest one."""
    size = PrefixCache(golden)
    warm(size, prompts[0], "dspark")
    cache = PrefixCache(golden, max_bytes=int(2.4 * size.nbytes))
    one, two, three = ([9, 8, token, *prompts[0]] for token in (5, 6, 7))
    warm(cache, one, "dspark")
    warm(cache, two, "dspark")
    assert reused(cache, three, "dspark") == 2  # the template's
    assert reused(cache, two, "dspark") > 2
    assert reused(cache, one, "dspark") == 2  # it was the oldest, and went


def test_no_memory_keeps_nothing(golden, prompts):
    cache = PrefixCache(golden, max_bytes=0)
    assert reused(cache, prompts[0], "dspark") == reused(cache, prompts[0], "dspark") == len(cache) == 0


def zeroed(layer):
    layer.keys = mx.zeros_like(layer.keys)


def one_bit(layer):
    bits = layer.values.view(mx.uint32)
    bits[0, 0, 3, 5] ^= 1
    layer.values = bits.view(mx.float32)


def longer(layer):
    layer.offset += 1


def emptied(layer):
    layer.keys = layer.values = None


@pytest.mark.parametrize("which", [0, 1], ids=["target", "drafter"])
@pytest.mark.parametrize("break_it", [zeroed, one_bit, longer, emptied])
def test_a_broken_cache_is_rebuilt(golden, prompts, break_it, which):
    """What was kept is found to be broken, thrown away and computed anew; the next turn is quick again."""
    cache, (prompt, more) = PrefixCache(golden), prompts
    warm(cache, prompt, "dspark")
    break_it(cache.kept[0].caches[which][1])
    assert reused(cache, prompt + more, "dspark") == 0
    assert cache.counts.damaged == 1
    assert reused(cache, prompt + more, "dspark") > 0
    assert cache.counts.damaged == 1


def test_a_broken_cache_would_show(golden, prompts, monkeypatch):
    """The control of the test before: where a cache full of noise is trusted, the answer is another."""
    cache, (prompt, more) = PrefixCache(golden), prompts
    warm(cache, prompt, "dspark")
    for layer in cache.kept[0].caches[0]:
        layer.values = 3 * mx.random.normal(layer.values.shape, key=mx.random.key(0))
    monkeypatch.setattr(cache, "intact", lambda kept: True)
    with pytest.raises(pytest.fail.Exception, match="warm and cold differ"):
        warm(cache, prompt + more, "dspark")


def test_wrong_tokens_are_not_served(golden, prompts):
    """A kept text whose tokens were exchanged for others is not taken for the others' caches."""
    cache, (prompt, more) = PrefixCache(golden), prompts
    warm(cache, prompt, "dspark")
    cache.kept[0].tokens = [*more, *cache.kept[0].tokens][: len(cache.kept[0].tokens)]
    assert reused(cache, more + more, "dspark") == 0
    assert cache.counts.damaged == 1


def test_closed_early_or_interrupted(golden, prompts, monkeypatch):
    """A closed stream leaves what it had; one that breaks off inside a pass leaves nothing."""
    cache, (prompt, more) = PrefixCache(golden), prompts
    rounds = lab.stream(golden, prompt, "dspark", max_tokens=60, prefix_cache=cache)
    seen = [token for _ in range(3) for token in next(rounds).committed]
    rounds.close()
    assert reused(cache, prompt + seen + more, "dspark") == len(prompt) + len(seen) - 1
    lab.stream(golden, more, prefix_cache=cache).close()  # never begun
    assert len(cache) == 1
    forward = golden.target.forward
    monkeypatch.setattr(golden.target, "forward", lambda *a: 1 / 0 if len(a[0]) == 8 else forward(*a))
    with pytest.raises(ZeroDivisionError):
        list(lab.stream(golden, more, "dspark", prefix_cache=cache))
    assert len(cache) == 1


def test_stop_strings(golden, prompts):
    """A text that a stop string cut short in the middle of a round is kept with what the caches really hold."""
    cache, (prompt, more) = PrefixCache(golden), prompts
    text = cold(golden, prompt, "dspark").text
    result = warm(cache, prompt, "dspark", stop=text[4:6])
    assert result.text == text[: text.find(text[4:6])]
    assert reused(cache, prompt + result.tokens + more, "dspark") >= len(prompt) + len(result.tokens) - 1


def test_of_another_pair(golden, prompts):
    other = lab.Pair(golden.target, {}, golden.tokenizer, name="other")
    with pytest.raises(ValueError, match="the prefix cache is of the pair target; make one with"):
        lab.generate(other, prompts[0], prefix_cache=PrefixCache(golden))


def test_caches_that_cannot_be_trimmed(golden, prompts, monkeypatch):
    """A window that has gone round serves a text that begins with all of it, or with its prompt; no other."""
    layers = len(golden.target.model.layers)
    monkeypatch.setattr(
        golden.target.model, "make_cache", lambda: [RotatingKVCache(24) for _ in range(layers)], raising=False
    )
    cache, (prompt, more) = PrefixCache(golden), prompts
    assert reused(cache, prompt, "baseline") == 0
    answer = cold(golden, prompt, "baseline").tokens
    assert [kept.trimmable for kept in cache.kept] == [False, False]
    assert reused(cache, prompt + answer + more, "baseline") == len(prompt) + TOKENS - 1
    assert reused(cache, prompt + more, "baseline") == len(prompt) - 1  # from the end of the prompt
    assert reused(cache, prompt[:-3] + more, "baseline") == 0


@pytest.mark.parametrize("kind", ["gemma4", "gemma4 with shared keys", "qwen3.5", "qwen3.5 with experts"])
@pytest.mark.parametrize("mode", ["baseline", "lookup"])
def test_windows_and_recurrent_states(tmp_path, kind, mode):
    """A text that goes on from all that was kept, or from the end of a prompt, in memory and after a restart."""
    config = {"gemma4": tiny.GEMMA4, "gemma4 with shared keys": tiny.GEMMA4_SHARED, "qwen3.5": tiny.QWEN35}
    target, _ = load_target(tiny.write_mlx_lm(tmp_path / "target", config.get(kind, tiny.QWEN35_MOE)))
    target.context_length = 4 * SLACK
    pair, draw = lab.Pair(target, {}, name=kind), random.Random(0)
    prompt, more = ([draw.randrange(tiny.VOCAB) for _ in range(n)] for n in (3 * SLACK, 9))
    cache = PrefixCache(pair, folder=tmp_path / "kept")
    assert reused(cache, prompt, mode) == 0
    answer = cold(pair, prompt, mode).tokens
    assert not any(kept.trimmable for kept in cache.kept)
    assert reused(cache, prompt + answer + more, mode) == len(prompt) + TOKENS - 1
    assert reused(cache, prompt + more, mode) == len(prompt) - 1
    assert reused(cache, prompt[:-3] + more, mode) == 0
    restarted = PrefixCache(pair, folder=tmp_path / "kept")
    assert reused(restarted, prompt + answer + more + more, mode) >= len(prompt) + TOKENS - 1
    assert restarted.counts.damaged == 0


def test_a_window_that_has_not_gone_round(tmp_path):
    """It can be cut like any other cache, while nothing has left it."""
    target, _ = load_target(tiny.write_mlx_lm(tmp_path / "target", tiny.GEMMA4))
    cache, draw = PrefixCache(lab.Pair(target, {}, name="gemma4")), random.Random(0)
    prompt = [draw.randrange(tiny.VOCAB) for _ in range(3 * tiny.WINDOW)]
    warm(cache, prompt, "lookup")
    assert reused(cache, prompt[: 2 * tiny.WINDOW] + prompt[:9], "lookup") == 2 * tiny.WINDOW


def test_prefill_in_steps(golden, prompts, monkeypatch):
    """What is left of a long prompt goes in some tokens at a time."""
    monkeypatch.setattr(sys.modules["dspark_lab.decode"], "PREFILL_STEP", 7)
    cache, (prompt, more) = PrefixCache(golden), prompts
    for mode in ("baseline", "dspark", "eagle3"):
        assert reused(cache, prompt, mode) == 0
        assert reused(cache, prompt + 3 * more, mode) >= len(prompt) - 2


def test_lab_pair_over_three_turns():
    """A chat of the shipped pair, turn by turn in its template."""
    pair = lab.load_pair()
    for mode in ("baseline", "dspark"):
        cache, messages = PrefixCache(pair), []
        for question in ("Rosa sets out 6 rows of 7 candles. How many candles is that?", "And with 3 more?", "Why?"):
            messages.append({"role": "user", "content": question})
            prompt = pair.tokenizer.apply_chat_template(messages, add_generation_prompt=True)
            result = warm(cache, prompt, mode, max_tokens=24)
            messages.append({"role": "assistant", "content": result.text})
        assert cache.counts.hits == 2
        assert cache.counts.reused_tokens > 0.5 * cache.counts.prompt_tokens


def test_caches_of_one_text_are_not_shared(golden, prompts):
    """Two texts that branch off the same one, in turns, do not write into each other's caches."""
    cache, (prompt, more) = PrefixCache(golden), prompts
    warm(cache, prompt, "dspark")
    a, b = prompt[:-2] + more, prompt[:-4] + more
    streams = [lab.stream(golden, text, "dspark", max_tokens=TOKENS, prefix_cache=cache) for text in (a, b)]
    said = [[], []]
    for _ in range(TOKENS):
        for tokens, rounds in zip(said, streams):
            tokens += [token for r in [next(rounds, None)] if r for token in r.committed]
    assert said == [cold(golden, text, "dspark").tokens for text in (a, b)]
    assert warm(cache, prompt + more, "dspark").tokens
    assert new_caches(golden.target, golden.drafter("dspark"))[0][0].offset == 0


@pytest.mark.parametrize("mode", ["dspark", "eagle3", "lookup"])
def test_a_text_closed_among_rounds_without_a_draft_is_kept_whole(golden, prompts, mode):
    """What such rounds commit waits for the next draft; the drafter gets it all the same when the text is closed."""
    cache, (prompt, more) = PrefixCache(golden), prompts
    rounds = lab.stream(golden, prompt, mode, max_draft=0, max_tokens=TOKENS, prefix_cache=cache)
    said = [token for _ in range(4) for token in next(rounds).committed]
    rounds.close()
    assert reused(cache, prompt + said + more, mode) == len(prompt) + len(said) - 1
