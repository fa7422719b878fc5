"""Whether the cost model is right beforehand, and whether "auto" picks well: everything measured side by side.

Plain decoding, every cap and "auto" answer each prompt in turns, in an order that turns round, and after each answer
a RoundClock times the rounds of the mode once more: prediction and measurement see the same machine in the same
minutes. (Once a prompt was too little: with 30 prompts a pass was then known to 3 or 4 %, and caps often differ less.)

What a cap accepts is not read off the rounds of whole blocks, cut there. They begin where a whole block ended, mostly
behind a miss; a shorter one also ends, and the next begins, in the midst of a stretch that is easy to draft. So a block
is drafted at every token of a text once, and each cap's rounds are walked from token to token.
"""

import numpy as np

from dspark_lab import blas, metrics
from dspark_lab.bench.record import RESAMPLES, over_prompts
from dspark_lab.bench.speed import in_turns, settings, speed_ratio
from dspark_lab.cost import RoundClock, ceiling
from dspark_lab.generate import stream
from dspark_lab.prefix_cache import PrefixCache
from dspark_lab.sampling import Sampling


def contest(pair, mode, prompts, caps, threads, temperature, max_tokens, advance=lambda: None):
    """One domain's cell. ``caps``: lengths to sweep; ``threads``: OpenBLAS's for plain decoding and for ``mode``."""
    plain_threads, mode_threads = threads
    shared = {"max_tokens": max_tokens, "temperature": temperature}
    options = [*({"max_draft": cap} for cap in caps), {"max_draft": "auto"}]
    sides = settings(pair, "baseline", [{}], [plain_threads], **shared)
    sides += settings(pair, mode, options, [mode_threads], **shared)
    in_turns(sides, prompts[:1])  # warms up, and leaves the mode's threads set
    whole = [list(stream(pair, prompt, mode, seed=seed, **shared)) for seed, prompt in enumerate(prompts)]
    blocks = [blocks_at(pair, prompt, rounds, mode, **shared) for prompt, rounds in zip(prompts, whole)]
    clock, seconds, tokens = RoundClock(pair, mode, sampling=Sampling(temperature)), [], []

    def time_rounds():
        blas.set_threads(mode_threads)
        clock.run()

    time_rounds()
    for number, prompt in enumerate(prompts):
        order = sides if number % 2 == 0 else sides[::-1]
        said, spent = in_turns(order, [prompt], time_rounds)
        step = 1 if number % 2 == 0 else -1
        tokens.append([len(texts[0]) for texts in said][::step])
        seconds.append(spent[::step, 0])
        advance()
    cell = judge(sides, np.array(tokens), np.array(seconds), caps, blocks, clock.costs())
    found = metrics.conditional_acceptance([r for rounds in whole for r in rounds])
    return cell | {"acceptance": [alpha.estimate for alpha in found]}


def judge(sides, tokens, seconds, caps, blocks, costs):
    """The cell, from ``tokens`` and ``seconds`` a token (prompts, sides), each text's `blocks_at` and `Costs`.

    ``caps``: measured against predicted tokens a second at each. ``auto``: against plain decoding and the best cap. The
    best cap is the best of noisy numbers, so the predicted one's share of its speed has a paired interval.
    """
    expected = np.array([[seconds_a_token(text, costs, cap) for cap in caps] for text in blocks])
    known = np.isfinite(seconds).all(axis=1) & np.isfinite(expected).all(axis=1)
    if known.sum() < 2:
        raise ValueError("fewer than two prompts were answered in more than one round by every side; give more tokens")
    tokens, seconds, expected = tokens[known], seconds[known], expected[known]
    own = tokens[:, 1:-1]  # the caps'
    sums = np.stack([own, own * seconds[:, 1:-1]], axis=-1)  # (prompts, caps, 2)
    measured = [over_prompts(rate, sums[:, i]) for i in range(len(caps))]
    predicted = (own.sum(0) / (own * expected).sum(0)).tolist()
    rates = [cell["estimate"] for cell in measured]
    best, guess = int(np.argmax(rates)), int(np.argmax(predicted))
    auto, plain = seconds[:, -1], seconds[:, 0]
    return {
        "caps": list(caps),
        "measured": measured,
        "predicted": predicted,
        "median_error": float(np.median(np.abs(np.array(predicted) / rates - 1))),
        "best_cap": caps[best],
        "predicted_cap": caps[guess],
        "lost_by_prediction": 1 - rates[guess] / rates[best],
        "predicted_over_best_cap": over_prompts(lambda s: rate(s[..., guess, :]) / rate(s[..., best, :]), sums),
        "auto_over_plain": speed_ratio(auto, plain),
        "auto_over_best_cap": speed_ratio(auto, seconds[:, 1 + best]),
        "ceiling": ceiling(costs),
        "costs": costs.to_dict(),
        "threads": [side.threads for side in sides],
    }


def rate(sums):
    """Tokens a second of ``sums`` (..., 2) of tokens and seconds."""
    return sums[..., 0] / sums[..., 1]


def blocks_at(pair, prompt, answer, mode, max_tokens, temperature):
    """A Round of a whole block at every token of ``answer``, Rounds: what a draft would come to there.

    Above temperature 0 these drafts are drawn for themselves, and the text is not the one that they would have led to.
    """
    shared = {"temperature": temperature, "prefix_cache": PrefixCache(pair)}
    text = [token for r in answer for token in r.committed]
    starts = ((prompt + text[:at], at) for at in range(len(text)))
    return [next(stream(pair, ids, mode, max_tokens=max_tokens - at, seed=at, **shared)) for ids, at in starts]


def walk(blocks, cap):
    """(tokens committed, tokens drafted) of each round that ``cap`` takes through a text; ``blocks``: `blocks_at`."""
    at, rounds = 0, []
    while at < len(blocks):
        rounds.append((min(blocks[at].accepted_length, cap + 1), min(blocks[at].draft_length, cap)))
        at += rounds[-1][0]
    return rounds


def seconds_a_token(blocks, costs, cap):
    """What to expect of ``cap`` in a text, as `clock` would see it: without the first round; NaN if there is no other.

    Prompt lookup finds now more, now less, now nothing, and pays for what it found.
    """
    later = walk(blocks, cap)[1:]
    return sum(costs.round(drafted) for _, drafted in later) / sum(n for n, _ in later) if later else float("nan")


def over_domains(cells):
    """The geometric mean over domains of "auto" over plain decoding, each domain's being its prompts' median ratio.

    Its 95 % interval draws each domain's prompts again.
    """
    rng, logs = np.random.default_rng(0), []
    for cell in cells:
        auto, plain = np.array(cell["auto_over_plain"]["seconds_per_token"])
        ratios = np.log(plain / auto)
        drawn = rng.choice(ratios, size=(RESAMPLES, len(ratios)))
        logs.append(np.concatenate([[np.median(ratios)], np.median(drawn, axis=1)]))
    estimate, *draws = np.exp(np.mean(logs, axis=0))
    low, high = np.percentile(draws, [2.5, 97.5])
    return {"estimate": float(estimate), "low": float(low), "high": float(high), "domains": len(cells)}
