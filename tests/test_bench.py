"""The benchmarks on the golden pair: files, tables, statistics. No test asserts how long anything took."""

import json
import math

import mlx.core as mx
import numpy as np
import pytest
from typer.testing import CliRunner

import dspark_lab as lab
from dspark_lab import cli
from dspark_lab.bench import acceptance as bench_acceptance
from dspark_lab.bench import commands as bench
from dspark_lab.bench import profile as bench_profile
from dspark_lab.bench import prompts as bench_prompts
from dspark_lab.bench import speed as bench_speed
from dspark_lab.bench.prompts import heldout_chats, heldout_prompts
from dspark_lab.bench.record import Record, alike, make_stamp, over_prompts
from dspark_lab.metrics import bootstrap_ratio

CHATS, PROMPT, ANSWER = 12, 5, 7  # chats a domain and split, tokens of each prompt and answer


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    """A folder with a chats.npz like the training's, of random tokens of the golden vocabulary."""
    folder, rng = tmp_path_factory.mktemp("training"), np.random.default_rng(0)
    (folder / "work").mkdir()
    n = 2 * 3 * CHATS
    np.savez(
        folder / "work" / "chats.npz",
        tokens=rng.integers(3, 128, n * (PROMPT + ANSWER)).astype(np.uint16),
        offsets=np.arange(n + 1) * (PROMPT + ANSWER),
        prompt_lengths=np.full(n, PROMPT, np.int32),
        response_bytes=np.full(n, 20, np.int32),
        domains=np.repeat(np.arange(3, dtype=np.uint8), 2 * CHATS),
        heldout=np.tile([False, True], n // 2),
    )
    return folder


@pytest.fixture
def command(lab_folder, training, tmp_path, monkeypatch):
    """Run dspark-lab bench on the golden pair and the made-up chats; returns (result, the file's content)."""
    monkeypatch.setattr(bench_speed, "thread_counts", lambda: [1])  # trying more is a matter of time alone

    def run(name, *args, code=0):
        out = tmp_path / "record.json"
        args += ("--model", lab_folder, "--out", out, *(() if name == "turns" else ("--from", training)))
        args = ["bench", name, *map(str, args)]
        result = CliRunner().invoke(cli.app, args, env={"COLUMNS": "120", "NO_COLOR": "1"}, prog_name="dspark-lab")
        assert result.exit_code == code, result.output
        return result, json.loads(out.read_text()) if out.exists() else None

    return run


SMALL = ("--prompts", 3, "--max-tokens", 8)


def test_heldout_prompts_are_spread_and_repeatable(training):
    data = np.load(training / "work" / "chats.npz")
    rows = np.flatnonzero(data["heldout"] & (data["domains"] == 1))
    chats = data["tokens"].reshape(-1, PROMPT + ANSWER)[:, :PROMPT].tolist()
    assert heldout_prompts("code", 99, training) == [chats[row] for row in rows]
    assert heldout_prompts("code", 3, training) == [chats[rows[i]] for i in (0, 6, CHATS - 1)]
    assert [(len(ids), length) for ids, length, _ in heldout_chats("math", 2, training)] == [(12, PROMPT)] * 2


def test_heldout_prompts_refuse_what_is_not_there(training, tmp_path):
    with pytest.raises(ValueError, match="prose, code, math"):
        heldout_prompts("poetry", 3, training)
    with pytest.raises(FileNotFoundError, match="train lab"):
        heldout_prompts("code", 3, tmp_path)


def test_without_a_folder_the_text_is_gathered_once(monkeypatch, tmp_path, golden_folder):
    from dspark_lab.train import corpus

    calls, body = [], "    total = 0\n    for step in range(limit):\n        total += step\n"
    source = f"def sum_of_all_steps(limit):\n    # below the limit\n{body}    return total\n"
    other = source.replace("+=", "-=")
    documents = [corpus.Document("code", "held", source, True), corpus.Document("code", "train", other, False)]
    monkeypatch.setattr(corpus, "documents", lambda cache, seed: calls.append(cache) or documents)
    monkeypatch.setattr(corpus, "chatterbot", lambda cache: [])
    monkeypatch.setattr(bench_prompts, "WEIGHTS", tmp_path)
    (tmp_path / "base").symlink_to(golden_folder / "target")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    ((ids, prompt_length, n_bytes),) = heldout_chats("code", 3)
    assert n_bytes == len(source.rstrip()) and 0 < prompt_length < len(ids)
    assert heldout_prompts("code", 3) == [ids[:prompt_length].tolist()]
    assert calls == [tmp_path / "cache" / "dspark-lab" / "work" / "sources"]


def test_acceptance_adds_up(command):
    result, record = command("acceptance", *SMALL, "--answers", 4, "--domains", "code", "--modes", "dspark,dflash")
    stamp, cells = record["stamp"], record["cells"]
    assert {
        "date",
        "processor",
        "cores",
        "python",
        "mlx",
        "mlx_lm",
        "dspark_lab",
        "blas",
        "blas_threads",
    } <= stamp.keys()
    assert {"target", "dspark", "dflash"} <= stamp["weights"].keys()
    assert [name for name in cells if name.startswith("rollouts")] == [
        f"rollouts/code/{mode}/{t}" for mode in ("dspark", "dflash") for t in (0, 1)
    ]
    for name in (f"rollouts/code/{mode}/{t}" for mode in ("dspark", "dflash") for t in (0, 1)):
        cell = cells[name]
        assert np.sum(cell["tallies"], axis=0).tolist() == [cell["tokens"], cell["rounds"]]
        assert cell["accepted_length"]["estimate"] == pytest.approx(cell["tokens"] / cell["rounds"])
        first, survived = cell["conditional_acceptance"][0], cell["survival"][0]
        assert first == survived and first["estimate"] == first["accepted"] / first["trials"]
    assert cells["target/code"]["answers"] == 4 and cells["target/code"]["tokens"] == 4 * ANSWER
    bits, perplexity = (cells["target/code"][name]["estimate"] for name in ("bits_per_byte", "perplexity"))
    assert bits * 20 == pytest.approx(math.log2(perplexity) * ANSWER)
    assert {"lead/code", "fall/code/dspark", "gain/code/0", "gain/code/1"} <= cells["comparisons"].keys()
    for title in ("Accepted length", "Teacher-forced", "held-out answers", "Peak memory"):
        assert title in result.output


def test_acceptance_quantized_beside_unquantized(command):
    """The same texts, drafted by a drafter as it is and in 2 bits: two rows, and not the same."""
    args = ("--answers", 2, "--domains", "code", "--modes", "dflash,dflash@2bit", "--temperatures", "1")
    result, record = command("acceptance", *SMALL, *args, "--drafter-bits", 2)
    cells = [record["cells"][f"overlaps/code/{mode}"] for mode in ("dflash", "dflash@2bit")]
    assert cells[0]["counts"] == cells[1]["counts"] and cells[0]["tables"] != cells[1]["tables"]
    assert "rollouts/code/dflash@2bit/1" in record["cells"] and "dflash@2bit" in result.output


def test_interrupted_run_keeps_its_cells_and_goes_on(command, monkeypatch):
    args = ("acceptance", *SMALL, "--answers", 2, "--domains", "code,math", "--modes", "dspark", "--temperatures", "0")
    calls, real = [], bench_acceptance.rollouts

    def interrupted(pair, mode, prompts, *rest):
        if calls:
            raise KeyboardInterrupt
        calls.append(prompts)
        return real(pair, mode, prompts, *rest)

    monkeypatch.setattr(bench_acceptance, "rollouts", interrupted)
    _, kept = command(*args, code=130)
    assert {"rollouts/code/dspark/0", "overlaps/code/dspark", "target/code"} <= kept["cells"].keys()
    assert not any("math" in name for name in kept["cells"])
    monkeypatch.setattr(bench_acceptance, "rollouts", lambda *a: calls.append(a[2]) or real(*a))
    _, whole = command(*args)
    assert len(calls) == 2 and calls[0] != calls[1]  # the finished cell was not measured again
    assert whole["cells"]["rollouts/code/dspark/0"] == kept["cells"]["rollouts/code/dspark/0"]
    assert "rollouts/math/dspark/0" in whole["cells"]


def test_record_of_other_weights_or_settings_is_replaced(golden, tmp_path):
    stamp, path = make_stamp(golden), tmp_path / "record.json"
    Record(path, stamp, {"prompts": 2}).put("a", 1)
    assert Record(path, {**stamp, "date": "later"}, {"prompts": 2}).cells == {"a": 1}
    fewer = {**stamp, "weights": {"target": stamp["weights"]["target"]}}
    assert Record(path, fewer, {"prompts": 2}).head["stamp"]["weights"] == stamp["weights"]
    assert Record(path, {**stamp, "weights": {"target": "others"}}, {"prompts": 2}).cells == {}
    assert Record(path, {**stamp, "mlx": "0"}, {"prompts": 2}).cells == {}
    assert Record(path, stamp, {"prompts": 3}).cells == {}
    assert not alike({}, {"stamp": stamp, "settings": {}})


@pytest.mark.parametrize("mode", ["dspark", "dflash", "dflash16", "eagle3"])
def test_teacher_forced_overlap_at_position_1_is_the_decode_loops(golden, mode):
    """Position 1 knows the anchor alone, drafted or given: there the two must agree at every anchor of the loop's."""
    prompt, drafter = [5, 9, 17, 33], golden.drafter(mode)
    rounds = list(lab.stream(golden, prompt, mode, temperature=1.0, max_tokens=7, seed=1))
    text, start = prompt + [t for r in rounds for t in r.committed], len(prompt)
    sums, counts = bench_acceptance.text_overlaps(golden.target, drafter, text, start)
    answer = len(text) - start
    assert counts.tolist() == [max(0, answer - k) for k in range(drafter.draft_length)]
    for r in rounds:
        if r.scheduled:  # of a text with one more token the one anchor is the round's
            ((forced, *_), _) = bench_acceptance.text_overlaps(golden.target, drafter, text[: start + 1], start)
            assert forced == pytest.approx(r.overlap[0], abs=1e-4)
        start += len(r.committed)
    assert (sums <= counts + 1e-4).all()


def test_over_prompts_is_a_ratio_of_sums_with_an_interval_that_covers():
    rng, covered = np.random.default_rng(3), 0
    for _ in range(200):
        rounds = rng.integers(5, 30, 40)
        tokens = rng.binomial(rounds * 7, 2 / 7)
        found = over_prompts(bench_acceptance.accepted_length, np.stack([tokens, rounds], 1), resamples=500)
        covered += found["low"] <= 2 <= found["high"]
    assert found["estimate"] == tokens.sum() / rounds.sum() and found["prompts"] == 40
    assert 172 <= covered <= 199  # 190 expected, and percentile intervals are a little short


def test_over_prompts_pairs_tables_and_leaves_out_what_cannot_be_divided():
    table = np.array([[3, 2], [9, 4], [5, 5]])
    gain = bench_acceptance.gain({"tallies": table * [2, 1]}, {"tallies": table})
    assert gain == {"estimate": 2.0, "low": 2.0, "high": 2.0, "prompts": 3}
    nothing = over_prompts(bench_acceptance.mean_overlap, [[[0.5, 0.0], [1, 0]], [[0.7, 0.0], [1, 0]]])
    assert nothing["estimate"] == [0.6, None] and nothing["low"][1] is nothing["high"][1] is None


def test_speed_of_made_up_seconds():
    rng = np.random.default_rng(0)
    base = rng.lognormal(0, 0.5, 60)
    ours, theirs = (base * rng.lognormal(0, 0.1, 60) for _ in range(2))
    same = bench_speed.speed_ratio(ours, theirs)["ratio"]
    assert same["low"] < 1 < same["high"] and same["high"] - same["low"] < 0.15
    ours[7] = np.nan
    faster = bench_speed.speed_ratio(ours / 2, theirs)
    assert faster["ratio"]["low"] > 1.8 and faster["left_out"] == 1 and faster["ratio"]["prompts"] == 59
    expected = bootstrap_ratio(np.delete(theirs, 7), np.delete(ours, 7) / 2, np.random.default_rng(0))
    assert faster["ratio"]["estimate"] == expected.estimate


def test_fastest_is_by_prompt():
    seconds = np.array([[1.0, 2.0, 90.0, np.nan], [2.0, 4.0, 40.0, 1.0], [3.0, 6.0, 50.0, 2.0]])
    assert bench_speed.fastest(seconds) == 0 and seconds[1, :3].sum() < seconds[0, :3].sum()
    with pytest.raises(ValueError, match="more prompts"):
        bench_speed.fastest(np.full((2, 3), np.nan))


def test_clock_starts_at_the_first_arrival(monkeypatch):
    times = iter([10.0, 11.0, 13.0])
    monkeypatch.setattr(bench_speed.time, "perf_counter", lambda: next(times))
    side = bench_speed.Side("made up", lambda prompt, seed: iter([[1, 2], [3], [4, 5]]), 1)
    assert side.timed([0], 0) == ([1, 2, 3, 4, 5], 1.0)  # three tokens in three seconds


def test_sides_take_turns_in_turning_order():
    order = []
    sides = [bench_speed.Side(n, lambda p, s, n=n: order.append(n) or iter([[0], [1]]), 1) for n in "ab"]
    tokens, seconds = bench_speed.in_turns(sides, [[0], [0], [0]])
    assert "".join(order) == "abbaab" and seconds.shape == (2, 3) and tokens == [[[0, 1]] * 3] * 2


def test_apart_shares_no_prompt():
    trial, own = bench.apart([[i] for i in range(24)], 4)
    assert (len(trial), len(own)) == (4, 20) and sorted(trial + own) == [[i] for i in range(24)]
    with pytest.raises(ValueError, match="no two over"):
        bench.apart([[0], [1], [2]], 2)


def test_differences_come_with_their_margin(golden):
    prompt = [5, 9, 17]
    true = lab.generate(golden, prompt, "baseline", max_tokens=4).tokens
    wrong = true[:2] + [(true[2] + 1) % 128] + true[3:]
    (found,) = bench_speed.differences(golden, [prompt, prompt], [true, true], [true, wrong])
    top = mx.sort(golden.target.forward(prompt + true[:2], golden.target.new_cache())[0][-1])[-2:].tolist()
    assert (found["prompt"], found["position"]) == (1, 2)
    assert found["margin"] == pytest.approx(top[1] - top[0], abs=1e-4) and found["tie"] == (found["margin"] < 1e-3)


def test_speed_command(command):
    options = (
        "--domains",
        "math",
        "--trial-prompts",
        2,
        "--max-tokens",
        32,
        "--max-draft",
        "2,5",
        "--thresholds",
        "0.5",
    )
    result, record = command("speed", "--prompts", 3, *options, "--mode", "dspark")
    assert list(record["cells"]) == ["plain/math", "mode/math/dspark/0", "mode/math/dspark/1"]
    for name, cell in record["cells"].items():
        assert cell["ratio"]["prompts"] + cell["left_out"] == 3
        assert cell["differences"] == (None if name.endswith("/1") else [])
    names = {side["name"] for side in record["cells"]["mode/math/dspark/0"]["trial"]}
    assert names == {"dspark max_draft 2", "dspark max_draft 5", "dspark confidence_threshold 0.5", "baseline"}
    assert "equal" in result.output and "over mlx_lm" in result.output and "same law" in result.output


def test_profile_adds_up_and_leaves_nothing_behind(golden):
    drafter = golden.drafter("dspark")
    before = dict(vars(drafter)), dict(vars(golden.target))
    tokens = lab.generate(golden, [5, 9, 17], "dspark", max_tokens=24).tokens
    cell = bench_profile.profile(golden, "dspark", [[5, 9, 17], [4, 8]], max_tokens=24)
    assert sum(cell["milliseconds"].values()) == pytest.approx(cell["round"])
    parts = {"backbone", "context update", "Markov loop", "confidence", "verify", "accept", "the rest"}
    assert parts <= cell["milliseconds"].keys() and min(cell["milliseconds"].values()) >= 0
    assert (dict(vars(drafter)), dict(vars(golden.target))) == before
    assert lab.generate(golden, [5, 9, 17], "dspark", max_tokens=24).tokens == tokens


@pytest.mark.parametrize("mode", ["lookup", "dflash", "eagle3", "baseline"])
def test_profile_takes_every_mode(golden, mode):
    cell = bench_profile.profile(golden, mode, [[5, 9, 17, 5, 9]], max_tokens=8)
    assert "verify" in cell["milliseconds"] and cell["rounds"] >= 1


def test_profile_command(command):
    result, record = command("profile", *SMALL, "--domains", "code", "--mode", "dspark")
    assert list(record["cells"]) == ["code/dspark"] and "context update" in result.output


def test_turns_command(command):
    """Cold and warm say the same, and the cache holds all of the context."""
    options = ("--context", 60, "--turn", 6, "--conversations", 3, "--modes", "baseline,dspark")
    result, record = command("turns", *options)
    assert list(record["cells"]) == ["turns/baseline/1", "turns/dspark/1"]
    for cell in record["cells"].values():
        assert cell["differences"] == 0 and cell["reused"] == 3 * 60
        assert cell["ratio"]["prompts"] == 3 and min(cell["milliseconds"].values()) > 0
    assert "times as quick" in result.output and "equal" in result.output


def test_bad_input_is_a_sentence(command):
    result, record = command("acceptance", *SMALL, "--modes", "nonsense", code=2)
    assert "nonsense" in result.output and record is None
    result, _ = command("speed", *SMALL, "--mode", "dspark", "--max-draft", "8", "--thresholds", "", code=2)
    assert "smaller caps" in result.output


def test_a_further_drafter_goes_by_its_folders_name(command, golden_folder):
    further = ("--drafter", golden_folder / "dspark_rnn")
    options = ("--answers", 2, "--domains", "code", "--temperatures", "1")
    _, record = command("acceptance", *SMALL, *options, *further, "--modes", "dspark_rnn")
    assert {"rollouts/code/dspark_rnn/1", "overlaps/code/dspark_rnn"} <= record["cells"].keys()
    assert "dspark_rnn" in record["stamp"]["weights"]
    result, _ = command("acceptance", *SMALL, "--drafter", golden_folder / "eagle3", code=2)  # the pair has one
    assert "already" in result.output


def test_batch_command(command):
    """Plain passes commit a token a request; a way's fields are its tallies'; only full batches count."""
    options = ("--domains", "code,math", "--sizes", "1,3", "--max-draft", "1,7", "--runs", 2)
    result, record = command("batch", "--prompts", 4, "--max-tokens", 24, *options, "--mode", "dspark")
    assert list(record["cells"]) == ["dspark/1", "dspark/3"]
    for name, cell in record["cells"].items():
        size, ways = int(name.split("/")[1]), cell["ways"]
        assert list(ways) == ["plain", "columns", "algorithm 1", "fixed 1", "fixed 7"]
        assert cell["step"]["tokens"] == [size * width for width in range(1, len(cell["step"]["tokens"]) + 1)]
        for way in ways.values():
            tokens, seconds, scheduled, requests, computed = np.sum(way["tallies"], axis=0)
            assert way["throughput"]["estimate"] == pytest.approx(tokens / seconds)
            assert way["per_user"]["estimate"] == pytest.approx(tokens / seconds / size)
            assert way["accepted_length"]["estimate"] == pytest.approx(tokens / requests)
            assert requests % size == 0 and computed >= scheduled + requests and way["throughput"]["runs"] == 2
        assert ways["plain"]["accepted_length"]["estimate"] == ways["plain"]["computed"]["estimate"] == 1
        assert ways["plain"]["over_plain"]["estimate"] == 1 and ways["plain"]["scheduled"]["estimate"] == 0
        assert ways["fixed 1"]["scheduled"]["estimate"] <= 1 < ways["fixed 7"]["scheduled"]["estimate"] <= 7
    for title in ("all requests together", "a second and user", "Drafted tokens verified", "Peak memory"):
        assert title in result.output
