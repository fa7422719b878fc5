"""The widgets' kernel side, without a browser: state in traits, guesses before answers, races live and recorded."""

import asyncio
import json

import pytest
from gallery import P, Q
from hand_rounds import decode, hand_text

import dspark_lab as lab
from dspark_lab import plots, race, widgets
from dspark_lab.widgets.race import LIVE

WORDS = ["of", "course", "no", "problem"]


def hand_trace(domain="math", drafts=(7, 7, 2)):
    """A recorded race of hand-made texts, as JSON would bring it back."""
    texts = [hand_text([0] * 20, length=0, seconds=0.004), hand_text(drafts, seconds=0.006)]
    lanes = [race.Recording(mode, [], iter(text)) for mode, text in zip(("baseline", "dspark"), texts)]
    for _ in race.run(lanes):
        pass
    about = {"domain": domain, "mode": "dspark", "temperature": 0.0, "stamp": "by hand"}
    return json.loads(json.dumps(race.record(lanes, decode, "the same, one for one", "", **about)))


def test_the_ribbon_keeps_its_state_in_traits_and_has_a_static_figure():
    ribbon = widgets.Ribbon(hand_text([3, 0, 7]), decode)
    assert [len(row) for row in ribbon.rows] == [8, 8, 8] and ribbon.guesses == []
    assert json.loads(json.dumps(ribbon.get_state(["rows", "guesses", "opened"])))["rows"][1][0]["fate"] == "rejected"
    assert plots.alt_text(ribbon.figure()).startswith("3 rounds")
    with pytest.raises(ValueError, match="no rounds with a draft"):
        widgets.Ribbon(hand_text([0], length=0), decode)


def test_the_ribbon_keeps_the_rounds_own_numbers():
    text = [*hand_text([0, 0], length=0), *hand_text([3]), *hand_text([0], length=0), *hand_text([7])]
    ribbon = widgets.Ribbon(text, decode)
    assert ribbon.numbers == [3, 5] and len(ribbon.rows) == 2
    assert "with a draft (3 and 5)" in plots.alt_text(ribbon.figure())


def test_draws_of_the_accept_rule_follow_p():
    rule = widgets.AcceptRule(P, Q, WORDS)
    rule.draw(3000)
    accepted, drawn = rule.tally
    assert drawn == 3000 and sum(rule.counts) == 3000
    assert accepted / drawn == pytest.approx(rule.overlap, abs=0.04)  # 4 standard errors: false alarms 1 in 16,000
    for share, p in zip(rule.counts, P):
        assert share / drawn == pytest.approx(p, abs=0.04)
    assert set(rule.drawn) == {"drafted", "token", "chance", "accepted"}


def test_the_accept_rule_tallies_each_draw():
    rule, accepted, counts = widgets.AcceptRule(P, Q, WORDS), 0, [0, 0, 0, 0]
    for _ in range(60):
        rule.draw()
        accepted += rule.drawn["accepted"]
        counts[rule.drawn["token"]] += 1
        drafted, token = rule.drawn["drafted"], rule.drawn["token"]
        assert rule.drawn["chance"] == pytest.approx(min(1, P[drafted] / Q[drafted]))
        assert token == drafted if rule.drawn["accepted"] else P[token] > Q[token]  # or else from the residual
    assert 0 < accepted < 60 and rule.tally == [accepted, 60] and rule.counts == counts


def test_the_accept_rule_refuses_bars_that_do_not_match():
    with pytest.raises(ValueError, match="4, 3 and 4 entries"):
        widgets.AcceptRule([0.25] * 4, [0.3, 0.3, 0.4])


def test_the_cost_explorer_shows_nothing_before_the_guess():
    explorer = widgets.CostExplorer({"H100": {1: 9.58e-3, 2: 15.39e-3, 8: 14.64e-3}})
    assert "img" not in explorer.picture.value
    explorer.guess.value = 2
    explorer.reveal.click()
    best = max(explorer.speeds(), key=explorer.speeds().get)
    assert "<img alt=" in explorer.picture.value and f"{best} is best" in explorer.picture.value
    explorer.guess.value = 3
    assert "img" not in explorer.picture.value


def test_the_cost_explorers_speeds_are_the_formula():
    explorer = widgets.CostExplorer(longest=3)
    explorer.acceptance.value, explorer.draft.value = 0.5, 2.0
    explorer.intercept.value, explorer.slope.value = 4.0, 1.0
    expected = {0: 1 / 4, 1: 1.5 / 7, 2: 1.75 / 8, 3: 1.875 / 9}
    assert explorer.speeds() == pytest.approx({n: 1000 * speed for n, speed in expected.items()})


def test_a_trace_replays_to_the_rounds_it_was_made_of():
    trace = hand_trace()
    lanes, told = race.replay(trace)
    for _ in race.run(lanes):
        pass
    assert [len(lane.rounds) for lane in lanes] == [20, 3] and lanes[1].finished
    assert told(lanes[1].tokens) == decode(lanes[1].tokens)


def test_a_recorded_race_says_so_and_judges_the_guess():
    show = widgets.Race(traces=[hand_trace("math"), hand_trace("prose", [0] * 19)])
    assert show.start.disabled
    show.guess.value = "prose"
    assert not show.start.disabled and show.prompt.layout.display == "none"
    asyncio.run(show.run())
    assert show.drawing.label.startswith("A recording, not a live run: by hand")
    assert "Still to race before your guess is judged: prose" in show.drawing.status
    show.source.value = show.source.options[1]
    asyncio.run(show.run())
    assert "Right: you said prose; prose lost." in show.drawing.status and "  " not in show.drawing.status
    assert show.results["prose"] < 1 < show.results["math"]
    assert "A race" in plots.alt_text(show.figure())
    assert show.drawing.lanes[1]["passes"] == 19 and show.drawing.lanes[1]["finished"]


def test_a_race_stops_when_told():
    show = widgets.Race(traces=[hand_trace()])
    show.guess.value = "math"

    async def scenario():
        show.begin()
        assert show.start.disabled and not show.stop.disabled
        await asyncio.sleep(0.02)
        show.stop.click()
        await show.task

    asyncio.run(scenario())
    assert show.drawing.status.startswith("Stopped") and not show.lanes[0].finished and not show.start.disabled


PROMPT = "Tom has 3 pens. Tom buys 4 more. How many pens does Tom have now?"


@pytest.fixture(scope="module")
def pair():
    """The lab pair."""
    return lab.load_pair()


def test_a_race_of_the_lab_pair_runs_live(pair):
    show = widgets.Race(pair, {"math": PROMPT}, max_tokens=24)
    assert show.source.value == LIVE and show.mode.value == "dspark"
    show.guess.value, show.draft.value = "math", 4
    asyncio.run(show.run())
    assert show.drawing.label.startswith("Live, on this machine")
    assert show.drawing.status.startswith("Tokens: the same, one for one. dspark was ")
    assert show.drawing.lanes[0]["passes"] > show.drawing.lanes[1]["passes"]
    assert max(r.draft_length for r in show.lanes[1].rounds) == 4


def test_a_mode_brings_its_own_longest_draft(pair):
    show = widgets.Race(pair, {"math": PROMPT}, max_tokens=24)
    show.guess.value, show.mode.value = "math", "dflash16"
    assert show.draft.max == 15
    show.draft.value = 12
    asyncio.run(show.run())
    assert show.lanes[1].mode == "dflash16" and max(r.draft_length for r in show.lanes[1].rounds) == 12
    show.mode.value = "dspark"
    assert show.draft.max == show.draft.value == 7


def test_the_temperature_of_a_race_is_its_lanes(pair):
    show = widgets.Race(pair, {"math": PROMPT}, max_tokens=16, seed=3)
    show.guess.value, show.temperature.value = "math", 1.2
    asyncio.run(show.run())
    for lane in show.lanes:
        told = lab.generate(pair, PROMPT, lane.mode, temperature=1.2, max_tokens=16, seed=3)
        assert lane.tokens == told.tokens, lane.mode
    assert show.drawing.status.startswith("Tokens: the same law. Above temperature 0 it is the same law, not the same")
    greedy = lab.generate(pair, PROMPT, "baseline", max_tokens=16).tokens
    assert show.lanes[0].tokens != greedy


def test_the_domain_brings_its_prompt(pair):
    show = widgets.Race(pair, {"math": PROMPT, "prose": "Call me"})
    show.domain.value = "prose"
    assert show.prompt.value == "Call me"


def test_what_cannot_run_is_said_in_the_status(pair):
    show = widgets.Race(pair, {"math": "2 + 2"}, max_tokens=8)
    show.guess.value, show.prompt.value = "math", ""
    asyncio.run(show.run())
    assert show.drawing.status.startswith("This cannot run: the prompt is empty")
    with pytest.raises(ValueError, match="nothing to race"):
        widgets.Race()
