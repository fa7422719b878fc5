"""Calibration on made-up drafters whose true acceptance is known, and in the drafter and its config.json."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import dspark_lab as lab
from dspark_lab import calibrate, cli
from dspark_lab.bench import calibration as bench_calibration
from dspark_lab.calibrate import Evidence, expected_calibration_error, fit_temperatures

TRUE = np.array([2.0, 0.5, 1.5])  # the temperatures that would mend the made-up drafter


def made_up(rng, rounds, temperatures=TRUE, censored=0.0):
    """Evidence of a drafter that means ``sigmoid(logit / temperature)``; some rounds were verified in part."""
    truth = rng.normal(0.6, 1.3, (rounds, len(temperatures)))
    chances = calibrate.sigmoid(truth)
    accepted = np.cumprod(rng.random(truth.shape) < chances, axis=1).sum(axis=1)
    logits = truth * temperatures
    length = np.where(rng.random(rounds) < censored, rng.integers(1, 1 + truth.shape[1], rounds), truth.shape[1])
    unseen = np.arange(truth.shape[1]) >= length[:, None]
    accepted = np.minimum(accepted, length)
    return Evidence(np.where(unseen, np.nan, logits), np.where(unseen, np.nan, chances), accepted)


def a_round(confidence, accepted, scheduled):
    return lab.Round(
        anchor=0,
        drafted=[1] * len(confidence),
        draft_probs=[0.5] * len(confidence),
        scheduled=scheduled,
        target_probs=[0.5] * scheduled,
        overlap=[0.25] * scheduled,
        confidence=confidence,
        accepted=accepted,
        committed=[1] * (accepted + 1),
        ending="correction" if accepted < scheduled else "bonus",
        draft_seconds=0,
        verify_seconds=0,
        other_seconds=0,
    )


ROUNDS = [
    a_round([0.9, 0.8, 0.5], accepted=1, scheduled=3),  # rejected at 2: nothing is known of 3 alone
    a_round([0.6, 0.5, 0.4], accepted=2, scheduled=2),  # 3 was not verified
    a_round([0.2, 0.1, 0.3], accepted=0, scheduled=3),
]
NONE = float("nan")


def test_evidence_of_rounds_is_by_score():
    evidence = Evidence.of([*ROUNDS, a_round([], 0, 0)])
    score, outcome = calibrate.conditional(evidence)
    np.testing.assert_allclose(score, [[0.9, 0.8, NONE], [0.6, 0.5, NONE], [0.2, NONE, NONE]], rtol=1e-6)
    np.testing.assert_array_equal(outcome, [[1, 0, NONE], [1, 1, NONE], [0, NONE, NONE]])
    score, outcome = calibrate.cumulative(evidence)
    np.testing.assert_allclose(score, [[0.9, 0.72, 0.36], [0.6, 0.3, NONE], [0.2, 0.02, 0.006]], rtol=1e-6)
    np.testing.assert_array_equal(outcome, [[1, 0, 0], [1, 1, NONE], [0, 0, 0]])
    score, outcome = calibrate.true_overlap(evidence)
    np.testing.assert_array_equal(score, [[0.25, 0.25, NONE], [0.25, 0.25, NONE], [0.25, NONE, NONE]])
    again = Evidence.from_lists(**json.loads(json.dumps(evidence.to_lists())))
    np.testing.assert_allclose(again.logits, evidence.logits, atol=1e-4)
    np.testing.assert_array_equal(again.accepted, [1, 2, 0])


def test_temperatures_divide_logits():
    odds = 4.0**0.5  # of .8 at temperature 2
    score, _ = calibrate.conditional(Evidence.of(ROUNDS), np.array([1.0, 2.0, 1.0]))
    assert score[0, :2] == pytest.approx([0.9, odds / (1 + odds)])


def test_a_certain_confidence_stays_finite():
    assert np.isfinite(Evidence.of([a_round([1.0, 0.0], 1, 2)]).logits).all()


@pytest.mark.parametrize("rounds", [[], [a_round([], 0, 0)]])
def test_without_confidence_there_is_nothing_to_calibrate(rounds):
    with pytest.raises(ValueError, match="confidence head"):
        Evidence.of(rounds)


def test_figures_by_hand():
    score, outcome = np.array([0.05, 0.15, 0.12, 0.95, NONE, 1.0]), np.array([0, 1, 0, 1, NONE, 0])
    bins = [abs(0.05 - 0), abs(0.15 + 0.12 - 1), abs(0.95 + 1.0 - 1)]
    assert expected_calibration_error(score, outcome) == pytest.approx(sum(bins) / 5)
    assert calibrate.brier(score, outcome) == pytest.approx((0.05**2 + 0.85**2 + 0.12**2 + 0.05**2 + 1) / 5)
    assert calibrate.auc(score, outcome) == pytest.approx((2 + 2) / 6)  # couples won by .15 and by .95
    found = calibrate.reliability(score, outcome)
    assert [(b.trials, b.score, b.outcome) for b in found] == [
        (1, 0.05, 0.0),
        (2, pytest.approx(0.135), 0.5),
        (2, pytest.approx(0.975), 0.5),
    ]
    assert all(b.low <= b.outcome <= b.high for b in found)


def test_figures_of_nothing():
    nothing = np.array([NONE]), np.array([NONE])
    assert np.isnan([expected_calibration_error(*nothing), calibrate.auc(*nothing), calibrate.brier(*nothing)]).all()
    assert calibrate.reliability(*nothing) == []
    assert np.isnan(calibrate.auc(np.array([0.5, 0.6]), np.array([1.0, 1.0])))


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=2, max_size=60))
def test_auc_counts_couples(cases):
    score, outcome = np.array([c for c, _ in cases]), np.array([float(o) for _, o in cases])
    accepted, rejected = score[outcome == 1], score[outcome == 0]
    if len(accepted) and len(rejected):
        wins = np.sign(accepted[:, None] - rejected)
        assert calibrate.auc(score, outcome) == pytest.approx((1 + wins.mean()) / 2)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60), st.integers(1, 20))
def test_ece_lies_between_the_mean_gap_and_the_mean_distance(cases, bins):
    score, outcome = np.array([c for c, _ in cases]), np.array([float(o) for _, o in cases])
    ece = expected_calibration_error(score, outcome, bins)
    assert abs(score.mean() - outcome.mean()) - 1e-9 <= ece <= np.abs(score - outcome).mean() + 1e-9


def test_fit_finds_the_temperatures_and_mends_the_score():
    rng = np.random.default_rng(0)
    fitted = fit_temperatures(made_up(rng, 20_000))
    np.testing.assert_allclose(np.log(fitted), np.log(TRUE), atol=0.2)
    other = made_up(rng, 20_000)
    before, after = (expected_calibration_error(*calibrate.cumulative(other, t)) for t in (1.0, np.array(fitted)))
    floor = calibrate.noise_floor(other, np.array(fitted), calibrate.cumulative, expected_calibration_error, rng)
    assert before > 0.04 and after < 0.01
    assert expected_calibration_error(*calibrate.cumulative(other, TRUE)) < np.quantile(floor, 0.999)
    assert before > floor.max()


def test_a_cap_does_not_disturb_the_fit():
    fitted = fit_temperatures(made_up(np.random.default_rng(1), 30_000, censored=0.5))
    np.testing.assert_allclose(np.log(fitted), np.log(TRUE), atol=0.25)


def test_fit_leaves_a_calibrated_score_nearly_alone():
    fitted = fit_temperatures(made_up(np.random.default_rng(2), 20_000, np.ones(3)))
    np.testing.assert_allclose(fitted, 1, atol=0.2)


def test_every_domain_has_the_same_weight():
    """One list cannot mend all domains; the one with the most rounds must not have its way."""
    rng = np.random.default_rng(3)
    domains = [made_up(rng, n, np.array([t])) for n, t in ((20_000, 3.0), (2000, 1.0), (2000, 1.0))]
    pooled = Evidence(*(np.concatenate([getattr(e, f) for e in domains]) for f in ("logits", "overlap", "accepted")))
    assert fit_temperatures(*domains)[0] < 1.5 and fit_temperatures(pooled)[0] > 2.0


def test_a_position_without_evidence_keeps_its_temperature():
    evidence = made_up(np.random.default_rng(4), 50)
    evidence.logits[:, 2] = NONE
    assert fit_temperatures(evidence)[2] == pytest.approx(1)
    with pytest.raises(ValueError, match="one drafter"):
        fit_temperatures(evidence, made_up(np.random.default_rng(4), 50, np.ones(2)))


@pytest.mark.parametrize("score", [calibrate.conditional, calibrate.cumulative])
def test_noise_floor_covers_a_calibrated_score(score):
    rng, inside = np.random.default_rng(5), 0
    for _ in range(40):
        evidence = made_up(rng, 300)
        floor = calibrate.noise_floor(evidence, TRUE, score, expected_calibration_error, rng, simulations=100)
        inside += expected_calibration_error(*score(evidence, TRUE)) <= np.quantile(floor, 0.95)
    assert 32 <= inside <= 40  # 38 expected; below 32 once in a thousand at this coverage


@pytest.fixture
def drafter_folder(golden_folder, tmp_path):
    return Path(shutil.copytree(golden_folder / "dspark_vanilla", tmp_path / "dspark"))


def load(golden_folder, drafter):
    return lab.load_pair(golden_folder / "target", drafter=drafter)


def confidences(pair, temperature):
    (r, *_) = lab.stream(pair, [5, 9, 17], "dspark", temperature=temperature, max_tokens=9, seed=3)
    return np.array(r.confidence)


def test_saved_temperatures_are_used_each_at_its_own(golden_folder, drafter_folder):
    kept = json.loads((drafter_folder / "config.json").read_text())
    raw = {t: confidences(load(golden_folder, drafter_folder), t) for t in (0.0, 1.0)}
    sampled, greedy = [2.0] * 7, [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 4.0]
    calibrate.save_calibration(drafter_folder, {"confidence_temperatures": sampled})
    published = load(golden_folder, drafter_folder)  # as published checkpoints have it: one list for all
    for t in (0.0, 1.0):
        expected = calibrate.sigmoid(calibrate.logit(raw[t]) / sampled)
        np.testing.assert_allclose(confidences(published, t), expected, rtol=1e-4)
    calibrate.save_calibration(drafter_folder, {"confidence_temperatures_greedy": greedy})
    both = load(golden_folder, drafter_folder)
    for t, divisors in ((0.0, greedy), (1.0, sampled)):
        expected = calibrate.sigmoid(calibrate.logit(raw[t]) / divisors)
        np.testing.assert_allclose(confidences(both, t), expected, rtol=1e-4)
    config = json.loads((drafter_folder / "config.json").read_text())
    assert {**config} == {**kept, "confidence_temperatures": sampled, "confidence_temperatures_greedy": greedy}


def test_saved_weights_are_used_greedily_alone(golden_folder, drafter_folder):
    """They stand in for the head's own, with a bias for each position; all else stays as it was."""
    pair = load(golden_folder, drafter_folder)
    head, raw = pair.drafter("dspark").confidence_head.proj, {t: confidences(pair, t) for t in (0.0, 1.0)}
    biases = np.linspace(-1, 1, 7)
    weights = [*head.weight[0].tolist(), *(biases + head.bias.item()).tolist()]
    calibrate.save_calibration(drafter_folder, {calibrate.WEIGHTS: weights})
    weighed = load(golden_folder, drafter_folder)
    expected = calibrate.sigmoid(calibrate.logit(raw[0.0]) + biases)
    np.testing.assert_allclose(confidences(weighed, 0.0), expected, rtol=1e-3)
    np.testing.assert_array_equal(confidences(weighed, 1.0), raw[1.0])
    shorter = next(lab.stream(weighed, [5, 9, 17], "dspark", max_tokens=4)).confidence
    np.testing.assert_allclose(shorter, expected[:3], rtol=1e-3)


def hard_rounds(rng, rounds, weights):
    """(features (rounds, γ, 4), accepted) of a drafter whose chances are ``weights`` (4 + γ,) of what its head sees."""
    features = rng.normal(0, 1, (rounds, len(weights) - 4, 4))
    chances = calibrate.sigmoid(features @ weights[:4] + weights[4:])
    return features, np.cumprod(rng.random(chances.shape) < chances, axis=1).sum(axis=1)


def test_weights_are_found_where_temperatures_could_not_help(monkeypatch):
    """The head looks at the wrong feature; positions that were not verified, and those behind a miss, tell nothing."""
    monkeypatch.setattr(calibrate, "RIDGE", 1e-5)
    true = np.array([1.5, -1.0, 0.0, 0.5, 1.0, 0.5, 2.0])
    features, accepted = hard_rounds(np.random.default_rng(0), 20_000, true)
    features[: len(features) // 2, 2] = np.nan
    accepted[: len(features) // 2] = np.minimum(accepted[: len(features) // 2], 2)
    start = np.array([0.0, 0.0, 1.5, 0.0]), 1.0
    found = np.array(calibrate.fit_weights((features, accepted), start=start))
    assert np.abs(found - true).max() < 0.15
    judged, outcome = hard_rounds(np.random.default_rng(1), 20_000, true)
    logits = judged @ found[:4] + found[4:]
    ece = expected_calibration_error(*calibrate.cumulative(Evidence(logits, np.zeros_like(logits), outcome)))
    assert ece < 0.01


def test_weights_of_every_piece_count_alike_and_stay_near_the_heads_own():
    """A domain of a tenth of the rounds pulls as hard as the other; what no evidence moves keeps its weight."""
    rng, true = np.random.default_rng(0), np.array([1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0])
    large, small = hard_rounds(rng, 10_000, true), hard_rounds(rng, 1_000, true * [-1, 1, 1, 1, 1, 1, 1])
    for features, _ in (large, small):
        features[..., 3] = 0.0  # always the same
    weights = calibrate.fit_weights(large, small, start=(np.array([0.0, 0.0, 0.0, 0.7]), 1.0))
    assert abs(weights[0]) < 0.1 and weights[3] == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("lists", "words"),
    [
        ({"confidence": [1.0] * 7}, "no list 'confidence'"),
        ({"confidence_temperatures": [1.0] * 6}, "6 entries, but the block has 7"),
        ({"confidence_temperatures_greedy": [1.0] * 6 + [0.0]}, "holds 0.0"),
        ({"confidence_temperatures_greedy": [1.0] * 6 + [float("nan")]}, "holds nan"),
        ({"confidence_weights_greedy": [1.0] * 7}, "7 entries; this drafter's head takes"),
        ({"confidence_weights_greedy": [float("inf")] * 87}, "holds inf"),
    ],
)
def test_nonsense_is_not_saved(drafter_folder, lists, words):
    before = (drafter_folder / "config.json").read_text()
    with pytest.raises(ValueError, match=words):
        calibrate.save_calibration(drafter_folder, lists)
    assert (drafter_folder / "config.json").read_text() == before


@pytest.fixture
def command(lab_folder, golden_folder, tmp_path, monkeypatch):
    """Run bench calibration on a copy of the golden pair, small: (result, the file's content, the pair's folder)."""
    folder = Path(shutil.copytree(lab_folder, tmp_path / "pair"))
    prompts = [[int(t) for t in np.random.default_rng(i).integers(3, 128, 5)] for i in range(40)]
    monkeypatch.setattr(bench_calibration, "heldout_prompts", lambda domain, count, source: [*prompts, prompts[0]])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(*args, code=0):
        out = tmp_path / "record.json"
        args = ("--model", folder, "--from", folder, "--out", out, "--rounds", 40, "--max-tokens", 12, *args)
        args = ["bench", "calibration", *map(str, args)]
        result = CliRunner().invoke(cli.app, args, env={"COLUMNS": "140", "NO_COLOR": "1"}, prog_name="dspark-lab")
        assert result.exit_code == code, result.output
        return result, json.loads(out.read_text()) if out.exists() else None, folder

    return run


def test_calibration_command_fits_judges_and_saves(command):
    before = command("--domains", "prose")[1]["cells"]
    result, record, folder = command("--domains", "prose", "--save")
    cells = record["cells"]
    assert cells == before  # the rounds came from the cache
    assert list(cells) == ["temperatures", "judged/prose/1", "judged/prose/0", "bars"]
    config = json.loads((folder / "dspark" / "config.json").read_text())
    assert {key: config[key] for key in calibrate.LISTS} == cells["temperatures"]
    assert len(config[calibrate.WEIGHTS]) == config["hidden_size"] + config["markov_rank"] + 7
    cell = cells["judged/prose/1"]
    assert cell["rounds"] >= 40 and len(cell["overlap_auc"]) == 8
    for score in ("conditional", "cumulative"):
        for when in ("before", "after"):
            judged = cell[score][when]
            assert {len(judged[name]) for name in judged} == {8}
            assert sum(b["trials"] for b in judged["reliability"][-1]) == judged["trials"][-1]
    assert cell["conditional"]["after"]["trials"][0] == cell["cumulative"]["after"]["trials"][0]
    assert "ECE of a" in result.output and "not worse/prose/0" in result.output


def test_a_saved_drafter_is_judged_as_it_was_trained(command, tmp_path):
    _, record, _ = command("--domains", "prose", "--save")
    for file in (tmp_path / "cache" / "dspark-lab").glob("rounds-*.json"):
        file.unlink()
    (tmp_path / "record.json").unlink()
    assert command("--domains", "prose")[1]["cells"] == record["cells"]


def test_rounds_are_counted_where_there_was_a_draft(golden):
    """A text of two tokens ends, after a rejection, in a round that has no room for one."""
    prompts = [[int(t) for t in np.random.default_rng(i).integers(3, 128, 5)] for i in range(40)]
    ends = [list(lab.stream(golden, prompt, "dspark", temperature=1.0, max_tokens=2))[-1] for prompt in prompts[:12]]
    assert any(not r.scheduled for r in ends)
    cell = bench_calibration.gather(golden, "dspark", prompts, 1.0, 12, 2)
    assert len(cell["accepted"]) == cell["prompts"] == 12  # one a text


def test_gathered_drafts_keep_what_the_head_alone_says(golden, monkeypatch):
    """That is what a calibration is judged against."""
    drafter, prompts = golden.drafter("dspark"), [[5, 9, 17], [3, 7, 11, 20]]
    alone = bench_calibration.gather(golden, "dspark", prompts, 0.0, 6, 30)
    head, biases = drafter.confidence_head.proj, np.linspace(-1, 1, 7)
    weights = (*head.weight[0].tolist(), *(biases + head.bias.item()).tolist())
    monkeypatch.setattr(drafter, "config", replace(drafter.config, confidence_weights_greedy=weights))
    weighed = bench_calibration.gather(golden, "dspark", prompts, 0.0, 6, 30)
    assert weighed["accepted"] == alone["accepted"] and len(alone["accepted"]) >= 6
    for own, before, after in zip(weighed["own_logits"], alone["logits"], weighed["logits"]):
        np.testing.assert_allclose(own, before, atol=1e-3)
        np.testing.assert_allclose(after, before + biases[: len(before)], atol=1e-3)


def test_prompts_to_fit_and_to_judge_are_apart(golden, monkeypatch):
    monkeypatch.setattr(bench_calibration, "heldout_prompts", lambda *_: [[1], [2], [3], [2], [4], [5]])
    fit, judge = bench_calibration.prompts_apart(golden, "code")
    assert sorted(fit + judge) == [[1], [2], [3], [4], [5]]
    fit, judge = bench_calibration.prompts_apart(golden, "math")
    assert len(fit) + len(judge) > 1000 and not set(map(tuple, fit)) & set(map(tuple, judge))


def test_a_drafter_without_confidence_is_refused(command):
    result, record, _ = command("--mode", "dflash", code=2)
    assert "no confidence head" in result.output and record is None
