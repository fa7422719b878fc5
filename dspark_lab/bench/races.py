"""Races for the notebooks to replay: run here, and kept with machine, versions and date."""

import json
from datetime import datetime
from pathlib import Path

from dspark_lab import examples, metrics, race
from dspark_lab.bench.record import make_stamp


def record_races(pair, folder=examples.RACES, repeats=5, mode="dspark"):
    """Run every race of ``examples.RACE_PROMPTS`` greedily and save it in ``folder``.

    Of ``repeats`` runs the one of median speedup is kept. For an idle machine: nothing else may run beside it.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    for domain, prompt in examples.RACE_PROMPTS.items():
        lanes = sorted((run(pair, prompt, mode) for _ in range(repeats)), key=speedup)[repeats // 2]
        same, explanation = race.compare(pair, lanes, 0.0)
        about = {"domain": domain, "prompt": prompt, "mode": mode, "temperature": 0.0}
        about["stamp"] = stamp_line(make_stamp(pair), repeats)
        trace = race.record(lanes, pair.tokenizer.decode, same, explanation, **about)
        Path(folder, f"{domain}.json").write_text(json.dumps(rounded(trace), ensure_ascii=False) + "\n")


def run(pair, prompt, mode):
    """The lanes of one race, run to its end."""
    lanes = race.line_up(pair, prompt, mode, max_tokens=examples.RACE_TOKENS)
    for _ in race.run(lanes):
        pass
    return lanes


def speedup(lanes):
    """How many times as fast as the first of two finished ``lanes`` the second was."""
    plain, other = (metrics.tokens_per_second(lane.rounds) for lane in lanes)
    return other / plain


def stamp_line(stamp, repeats):
    """A `make_stamp` in a line, for people."""
    day = f"{datetime.fromisoformat(stamp['date']):%d %B %Y}".lstrip("0")
    machine = f"{stamp['processor']}, {stamp['cores']} cores, MLX {stamp['mlx']}"
    return f"{machine}, {day}, the median of {repeats} runs"


def rounded(value):
    """``value`` as JSON would give it back, its floats to five significant digits."""
    return json.loads(json.dumps(value), parse_float=lambda text: float(f"{float(text):.5g}"))
