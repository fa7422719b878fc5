"""What is drawn of Rounds, and how a race is run and explained."""

from dataclasses import replace
from io import StringIO

import mlx.core as mx
import pytest
from fakes import byte_tokenizer
from rich.console import Console
from test_generate import text_pair

import dspark_lab as lab
from dspark_lab.race import Lane, compare, run
from dspark_lab.rounds import NO_DRAFT
from dspark_lab.terminal import Ribbon, Track, fates, legend, race_frame, verdict

PROMPT = "def encode(self, input):"


def test_fates(golden):
    """Each committed token once, in order, and before every correction the rejected draft."""
    rounds = lab.generate(golden, PROMPT, "dspark", max_tokens=60).rounds
    for r in rounds:
        shown = fates(r)
        assert [token for token, fate in shown if fate != "rejected"] == r.committed
        assert sum(fate == "accepted" for _, fate in shown) == r.accepted
        assert shown[-1] == (r.committed[-1], r.ending if r.drafted else None)
        if r.ending == "correction":
            assert shown[-2] == (r.drafted[r.accepted], "rejected")
    assert {r.ending for r in rounds} == {"correction", "bonus"}
    counts = legend(rounds).plain
    assert f"accepted {sum(r.accepted for r in rounds)} " in counts
    assert f"rejected {sum(r.ending == 'correction' for r in rounds)} " in counts


@pytest.mark.parametrize("draft_length", [0, 2, 7])
@pytest.mark.parametrize("wrong", [(), range(1, 60, 5)])
def test_pieces_join_to_the_text(draft_length, wrong):
    """Characters of several tokens are drawn whole, whatever the rounds; the stop token is drawn as what it is."""
    text = "  naïve 日本 🙂, one!"
    rounds = lab.generate(text_pair("x", text, draft_length, wrong), "x", "scripted", chat=False).rounds
    ribbon = Ribbon(byte_tokenizer().decode)
    assert "".join(ribbon.plain(r).plain for r in rounds) == text + "<end>"


def test_stop_token_inside_a_draft():
    """Nothing of the target's own follows."""
    (only,) = lab.generate(text_pair("x", "abc"), "x", "scripted", chat=False).rounds
    assert fates(only) == [(97, "accepted"), (98, "accepted"), (99, "accepted"), (256, "accepted")]


def test_control_characters_do_not_reach_the_terminal():
    rounds = lab.generate(text_pair("x", "a\x1b[2J\r\x07b", 3), "x", "scripted", chat=False).rounds
    ribbon = Ribbon(byte_tokenizer().decode)
    assert "".join(ribbon.plain(r).plain for r in rounds) == "a␛[2J␍␇b<end>"


def finished_lane(mode, prompt, rounds):
    """A lane whose race is over."""
    return Lane(mode, prompt, iter(()), rounds=rounds)


def test_race_explains_a_difference(golden):
    """Where tokens differ, the two largest logits there are the target's own after everything before."""
    prompt = golden.tokenizer.encode(PROMPT)
    rounds = [lab.generate(golden, prompt, mode, max_tokens=20).rounds for mode in ("baseline", "dspark")]
    lanes = [finished_lane(mode, prompt, r) for mode, r in zip(("baseline", "dspark"), rounds)]
    assert compare(golden, lanes, 0.0) == ("the same, one for one", "")
    tokens = lanes[0].tokens
    rounds[0][9].committed = [tokens[9] + 1]
    same, why = compare(golden, lanes, 0.0)
    second, first = sorted(golden.target.model(mx.array([prompt + tokens[:9]]))[0, -1].tolist())[-2:]
    assert same == "different from token 10 on"
    assert f"{first - second:.2g} apart, which is no tie" in why
    assert f"is {chr(tokens[9] + 1)!r} in plain decoding and {chr(tokens[9])!r} in dspark" in why


def test_verdict_shows_brackets_as_they_are(golden):
    """A token like [/b] is text, not Rich's markup."""
    rounds = lab.generate(golden, PROMPT, "dspark", max_tokens=10).rounds
    console = Console(width=80, file=StringIO())
    console.print(
        verdict([finished_lane("dspark", [0], rounds)] * 2, "different", "Token 3 is '[/b]' in plain decoding.")
    )
    assert "Token 3 is '[/b]' in plain" in console.file.getvalue() and "1.00 times as fast" in console.file.getvalue()


def test_turns():
    """The lane whose clock is behind goes next, and a lane that has finished no more."""
    order = []

    def rounds(name, seconds):
        for i, duration in enumerate(seconds):
            order.append(name)
            reason = "length" if i + 1 == len(seconds) else None
            yield replace(NO_DRAFT, committed=[1], draft_seconds=duration, finish_reason=reason)

    lanes = [Lane(name, [0], rounds(name, seconds)) for name, seconds in (("a", [2.0] * 3), ("b", [3.0, 0.5, 4.0]))]
    assert sum(1 for _ in run(lanes)) == 6
    assert "".join(order) == "ababba"  # the clocks: 0 0, 2 0, 2 3, 4 3, 4 3.5, 4 7.5, 6 7.5
    assert [lane.seconds for lane in lanes] == [6.0, 7.5]


@pytest.mark.parametrize("width", [36, 80, 120])
def test_race_fits_the_terminal(golden, width):
    """Never wider than the terminal, and no higher than asked; without a height all the text is there."""
    console = Console(width=width, file=StringIO())
    rounds = lab.generate(golden, PROMPT, "dspark", max_tokens=200).rounds
    tracks = [Track(finished_lane("dspark", [0], rounds), golden.tokenizer.decode) for _ in range(2)]
    lines = console.render_lines(race_frame(tracks, console, height=3), pad=False)
    assert len(lines) == 3 + 5
    assert all(sum(segment.cell_length for segment in line) <= width for line in lines)
    assert len(console.render_lines(race_frame(tracks, console))) > 3 + 5
