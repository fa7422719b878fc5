"""From a prompt to text: stop strings, characters, chats, seeds, interruptions, and mlx-lm as the reference."""

import json

import mlx.core as mx
import pytest
from fakes import ScriptedDrafter, ScriptedTarget, byte_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_lm import stream_generate

import dspark_lab as lab

TOKENIZER = byte_tokenizer()
END = 256
PROMPT = "def encode(self, input):"


def text_pair(prompt, text, draft_length=7, wrong=()):
    """A pair that answers ``prompt`` (raw) with ``text`` and the end token."""
    script = [*prompt.encode(), *text.encode(), *[END] * 40]
    drafter = ScriptedDrafter(script, draft_length, wrong)
    return lab.Pair(ScriptedTarget(script), {"scripted": drafter}, TOKENIZER, frozenset({END}), "scripted")


def ending_before(text, stops):
    """``text`` up to the stop string that is complete first, as a reader of single characters would have it."""
    for end in range(1, len(text) + 1):
        if found := [end - len(stop) for stop in stops if text[:end].endswith(stop)]:
            return text[: min(found)], "stop"
    return text, "length"


def answer(pair, mode="scripted", **options):
    """A Result whose parts have been checked against the whole."""
    result = lab.generate(pair, "x", mode, chat=False, **{"max_tokens": 200, **options})
    assert "".join(r.text for r in result.rounds) == result.text
    assert [token for r in result.rounds for token in r.committed] == result.tokens
    assert [r.finish_reason for r in result.rounds] == [None] * (len(result.rounds) - 1) + [result.finish_reason]
    return result


def test_stop_token_is_in_the_tokens_but_not_in_the_text():
    result = answer(text_pair("x", "abc"))
    assert (result.text, result.tokens, result.finish_reason) == ("abc", [97, 98, 99, END], "stop")
    assert (result.prompt_tokens, result.mode, len(result.rounds)) == (1, "scripted", 1)


def test_the_drafter_is_the_one_of_that_name_whatever_its_kind():
    """Two drafters of one kind may stand in a pair under names of their own, as a benchmark's ablations do."""
    pair = text_pair("x", "abcdefghij", draft_length=7)
    pair.drafters["shorter"] = ScriptedDrafter([*b"xabcdefghij", *[END] * 40], 1, ())
    assert [len(answer(pair, mode).rounds) for mode in ("scripted", "shorter")] == [2, 6]
    assert answer(pair, "shorter").mode == "shorter" and pair.drafter("shorter").mode == "scripted"


@pytest.mark.parametrize("draft_length", [0, 1, 3, 7])
@pytest.mark.parametrize("stop", ["ef", "cdefgh", "e", "xyz", ["ij", "def"], "hij", "abc"])
def test_stop_strings(draft_length, stop):
    """Inside a draft, across rounds, at either end: the text stops just before, whatever the rounds are."""
    text = "abcdefghij"
    stops = [stop] if isinstance(stop, str) else stop
    expected, reason = ending_before(text, stops)
    result = answer(text_pair("x", text, draft_length), stop=stop)
    assert result.text == expected
    assert result.finish_reason == "stop"  # if no stop string ended it, the end token did
    if reason == "stop":  # the tokens go on to the one that completed the stop string, and no further
        assert bytes(result.tokens).decode() in [expected + stop for stop in stops]


def test_round_cut_by_a_stop_string():
    """The round says that it was cut inside its draft, as with a stop token."""
    (only,) = answer(text_pair("x", "abcdefghij"), stop="cd").rounds
    assert (only.committed, only.accepted, only.ending, only.text) == ([97, 98, 99, 100], 7, "stop", "ab")


def test_what_may_be_a_stop_string_is_held_back():
    """A reader of the stream never sees text that is taken away later; what proves harmless comes later."""
    rounds = lab.stream(text_pair("x", "one END of ENDING", 0), "x", "scripted", stop=["ENDING", "END?"], chat=False)
    seen = ""
    for r in rounds:
        seen += r.text
        assert not any(seen.endswith("ENDING"[:n]) for n in range(1, 7))
    assert seen == "one END of "


def test_stop_string_that_is_complete_first_wins():
    """Even where the detokenizer hands out several characters at once (it keeps spaces until a word follows)."""
    assert answer(text_pair("x", "a  bc"), stop=["a  b", " "]).text == "a"
    assert answer(text_pair("x", "a  bc"), stop=["  b", "a  b"]).text == ""


def test_held_text_is_flushed_at_the_end():
    assert answer(text_pair("x", "abc EN"), stop="END").text == "abc EN"
    result = answer(text_pair("x", "abc EN"), stop="END", max_tokens=5)
    assert (result.text, result.finish_reason) == ("abc E", "length")


@pytest.mark.parametrize("draft_length", [0, 2, 7])
def test_characters_are_whole(draft_length):
    """No round shows part of a character; one that max_tokens cuts in two ends as the replacement character."""
    text = "naïve 日本 🙂!"
    rounds = answer(text_pair("x", text, draft_length)).rounds
    assert "".join(r.text for r in rounds) == text
    assert not any("\ufffd" in r.text for r in rounds)
    assert answer(text_pair("x", text, draft_length), max_tokens=3).text == "na\ufffd"


def test_space_at_the_start_is_kept():
    """A continuation goes on where the prompt ends."""
    assert answer(text_pair("x", "  y")).text == "  y"


characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")  # mlx-lm's detokenizer garbles NUL
texts = st.text(st.sampled_from("ab c\n") | characters, min_size=1, max_size=30)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), text=texts, draft_length=st.integers(0, 7), max_tokens=st.integers(1, 60))
def test_text_is_cut_exactly(data, text, draft_length, max_tokens):
    pieces = st.tuples(st.integers(0, len(text) - 1), st.integers(1, 5)).map(lambda at: text[at[0] : at[0] + at[1]])
    stops = data.draw(st.lists(pieces | st.text("ab ", min_size=1, max_size=3), max_size=3))
    wrong = data.draw(st.sets(st.integers(0, 60)))
    whole = text.encode()[:max_tokens].decode(errors="replace")
    expected, reason = ending_before(whole, stops)
    if len(text.encode()) < max_tokens:  # the end token fits too
        reason = "stop"
    for mode in ("scripted", "baseline", "lookup"):
        result = answer(text_pair("x", text, draft_length, wrong), mode, stop=stops, max_tokens=max_tokens)
        assert (result.text, result.finish_reason) == (expected, reason)
        assert len(result.tokens) <= max_tokens


def seen_prompt(pair, prompt, **options):
    """What the target was given of ``prompt``, as text; its last token is the first anchor."""
    next(lab.stream(pair, prompt, "baseline", max_tokens=1, **options))
    return bytes(pair.target.cache[0].tokens).decode()


def test_prompts_of_all_kinds():
    chat = "[user]Hi[assistant]"
    pair = text_pair(chat, "ok")
    assert seen_prompt(pair, "Hi") == chat
    assert seen_prompt(pair, [{"role": "user", "content": "Hi"}]) == chat
    assert seen_prompt(pair, list(chat.encode())) == chat
    assert seen_prompt(pair, "Hi", chat=False) == "Hi"
    turns = [{"role": role, "content": text} for role, text in [("user", "a"), ("assistant", "b"), ("user", "c")]]
    assert seen_prompt(pair, turns) == "[user]a[assistant]b[user]c[assistant]"


def test_text_is_taken_as_it_stands_without_a_chat_template(golden):
    ids = golden.tokenizer.encode(PROMPT)
    results = [lab.generate(golden, prompt, max_tokens=20) for prompt in (PROMPT, ids, tuple(ids))]
    assert results[0].tokens == results[1].tokens == results[2].tokens
    assert results[0].text == results[1].text == golden.tokenizer.decode(results[0].tokens)
    assert results[0].prompt_tokens == len(ids)


def test_pair_without_a_tokenizer():
    script = list(range(50))
    pair = lab.Pair(ScriptedTarget(script), {"scripted": ScriptedDrafter(script)}, stop_tokens=frozenset({9}))
    result = lab.generate(pair, [0, 1], "scripted")
    assert (result.tokens, result.text, result.finish_reason) == ([2, 3, 4, 5, 6, 7, 8, 9], "", "stop")


def test_modes(golden):
    assert golden.modes == ("baseline", "lookup", "dspark", "dflash", "dflash16", "eagle3")
    assert golden.default_mode == lab.generate(golden, PROMPT, max_tokens=1).mode == "dspark"
    assert lab.Pair(golden.target, {}).default_mode == "lookup"
    assert lab.Pair(golden.target, {"eagle3": golden.drafter("eagle3")}).default_mode == "eagle3"


def test_result(golden):
    result = lab.generate(golden, PROMPT, "dspark", max_tokens=30)
    assert len(result.tokens) == 30
    assert result.mean_accepted_length == pytest.approx(30 / len(result.rounds)) and len(result.rounds) < 30
    assert result.tokens_per_sec == pytest.approx(30 / result.seconds)
    assert all(r.p is None for r in result.rounds)
    assert lab.generate(golden, PROMPT, "baseline", max_tokens=9).mean_accepted_length == 1


@pytest.mark.parametrize("mode", ["lookup", "dspark", "dflash", "dflash16", "eagle3"])
def test_greedy_text_does_not_depend_on_the_mode(golden, mode):
    plain = lab.generate(golden, PROMPT, "baseline", max_tokens=30)
    for max_draft in {None, 0, 1, golden.drafter(mode).draft_length}:
        result = lab.generate(golden, PROMPT, mode, max_tokens=30, max_draft=max_draft)
        assert (result.tokens, result.text) == (plain.tokens, plain.text)
        assert max_draft is None or max(r.draft_length for r in result.rounds) <= max_draft


def test_prompt_of_one_token(golden):
    """Before the first draft nothing is committed: block drafters see no context, and EAGLE-3 has no feature."""
    texts = {mode: lab.generate(golden, [100], mode, max_tokens=12) for mode in golden.modes}
    assert all(result.tokens == texts["baseline"].tokens for result in texts.values())
    assert texts["eagle3"].rounds[0].drafted == [] and texts["dspark"].rounds[0].draft_length == 7


def test_confidence_threshold(golden):
    plain = lab.generate(golden, PROMPT, "dspark", max_tokens=30)
    result = lab.generate(golden, PROMPT, "dspark", max_tokens=30, confidence_threshold=0.6)
    assert result.tokens == plain.tokens
    assert any(r.scheduled < r.draft_length for r in result.rounds)
    assert all(r.confidence[k] >= 0.6 for r in result.rounds for k in range(r.scheduled))


def test_keep_probs(golden):
    (r, *_) = lab.generate(golden, PROMPT, "dspark", temperature=1.0, keep_probs=True).rounds
    assert r.p.shape == (8, 128) and r.q.shape == (7, 128)


@pytest.mark.parametrize("mode", ["baseline", "dspark", "lookup"])
def test_seeds(golden, mode):
    """The same seed gives the same text in the same mode; another gives another."""

    def tokens(seed):
        return lab.generate(golden, PROMPT, mode, max_tokens=40, temperature=1.0, seed=seed).tokens

    assert tokens(1) == tokens(1)
    assert len({tuple(tokens(seed)) for seed in range(4)}) == 4


def test_max_tokens_is_cut_to_the_context(golden):
    prompt = (golden.tokenizer.encode(PROMPT) * 30)[:500]
    result = lab.generate(golden, prompt, "dspark", max_tokens=100)
    assert (len(result.tokens), result.finish_reason) == (12, "length")  # the golden context is 512


def test_closing_the_iterator_leaves_the_pair_usable(golden):
    expected = lab.generate(golden, PROMPT, max_tokens=30).tokens
    rounds = lab.stream(golden, PROMPT, max_tokens=30)
    next(rounds)
    rounds.close()
    assert list(rounds) == []
    assert lab.generate(golden, PROMPT, max_tokens=30).tokens == expected


@pytest.mark.parametrize("mode", ["dspark", "eagle3"])
def test_ctrl_c_leaves_the_pair_usable(golden, monkeypatch, mode):
    """Interrupted inside a layer of the target, while the taps are in place."""
    expected = lab.generate(golden, PROMPT, mode, max_tokens=30).tokens
    layers = list(golden.target.model.layers)

    def interrupt(self, *args, **kwargs):
        raise KeyboardInterrupt

    rounds = lab.stream(golden, PROMPT, mode, max_tokens=30)
    next(rounds)
    with monkeypatch.context() as patch:
        patch.setattr(type(layers[3].mlp), "__call__", interrupt)
        with pytest.raises(KeyboardInterrupt):
            next(rounds)
    assert all(ours is theirs for ours, theirs in zip(golden.target.model.layers, layers))
    assert lab.generate(golden, PROMPT, mode, max_tokens=30).tokens == expected


def test_two_streams_at_once(golden):
    """Nothing of a text is kept in the pair: streams that take turns do not disturb each other."""
    ids = golden.tokenizer.encode(PROMPT)
    expected = [lab.generate(golden, prompt, max_tokens=24).tokens for prompt in (ids, ids[3:])]
    streams = [lab.stream(golden, prompt, max_tokens=24) for prompt in (ids, ids[3:])]
    tokens = [[], []]
    while any(len(out) < 24 for out in tokens):
        for out, rounds in zip(tokens, streams):
            for r in rounds:
                out += r.committed
                break
    assert tokens == expected


def test_plain_decoding_is_mlx_lms(golden, golden_folder):
    """Token for token, on every golden prompt."""
    for prompt in json.loads((golden_folder / "expected.json").read_text())["prompts"]:
        theirs = list(stream_generate(golden.target.model, golden.tokenizer, mx.array(prompt), max_tokens=64))
        assert lab.generate(golden, prompt, "baseline", max_tokens=64).tokens == [r.token for r in theirs]
