"""Whether the cost model is right beforehand, and whether "auto" picks well: everything measured side by side.

Plain decoding, every cap and "auto" answer each prompt in turns, in an order that turns round, and after each prompt a
RoundClock times the rounds of the mode once more: prediction and measurement see the same machine in the same minutes.
"""

import numpy as np

from dspark_lab import blas, metrics
from dspark_lab.bench.record import RESAMPLES, over_prompts
from dspark_lab.bench.speed import in_turns, settings, speed_ratio
from dspark_lab.cost import RoundClock, ceiling
from dspark_lab.generate import stream
from dspark_lab.sampling import Sampling


def contest(pair, mode, prompts, caps, threads, temperature, max_tokens, advance=lambda: None):
    """One domain's cell. ``caps``: lengths to sweep; ``threads``: OpenBLAS's for plain decoding and for ``mode``."""
    plain_threads, mode_threads = threads
    shared = {"max_tokens": max_tokens, "temperature": temperature}
    options = [*({"max_draft": cap} for cap in caps), {"max_draft": "auto"}]
    sides = settings(pair, "baseline", [{}], [plain_threads], **shared)
    sides += settings(pair, mode, options, [mode_threads], **shared)
    in_turns(sides, prompts[:1])  # warms up, and leaves the mode's threads set
    whole = [r for seed, prompt in enumerate(prompts) for r in stream(pair, prompt, mode, seed=seed, **shared)]
    clock, seconds, tokens = RoundClock(pair, mode, sampling=Sampling(temperature)), [], []
    clock.run()
    for number, prompt in enumerate(prompts):
        order = sides if number % 2 == 0 else sides[::-1]
        said, spent = in_turns(order, [prompt])
        step = 1 if number % 2 == 0 else -1
        tokens.append([len(texts[0]) for texts in said][::step])
        seconds.append(spent[::step, 0])
        blas.set_threads(mode_threads)
        clock.run()
        advance()
    return judge(sides, np.array(tokens), np.array(seconds), caps, whole, clock.costs())


def judge(sides, tokens, seconds, caps, whole, costs):
    """The cell, from ``tokens`` and ``seconds`` a token (prompts, sides), Rounds of ``whole`` blocks and `Costs`.

    ``caps``: measured against predicted tokens a second at each. ``auto``: against plain decoding and the best cap.
    """
    known = np.isfinite(seconds).all(axis=1)
    if known.sum() < 2:
        raise ValueError("fewer than two prompts were answered in more than one round by every side; give more tokens")
    tokens, seconds = tokens[known], seconds[known]
    sums = np.stack([tokens, tokens * seconds], axis=-1)  # (prompts, sides, 2)
    measured = [over_prompts(lambda s: s[..., 0] / s[..., 1], sums[:, 1 + i]) for i in range(len(caps))]
    predicted = [at_cap(whole, costs, cap) for cap in caps]
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
        "auto_over_plain": speed_ratio(auto, plain),
        "auto_over_best_cap": speed_ratio(auto, seconds[:, 1 + best]),
        "ceiling": ceiling(costs),
        "acceptance": [rate.estimate for rate in metrics.conditional_acceptance(whole)],
        "costs": costs.to_dict(),
        "threads": [side.threads for side in sides],
    }


def at_cap(rounds, costs, cap):
    """Tokens a second to expect of ``cap``: every one of ``rounds``, of whole blocks, cut there, at its price.

    Of a drafter with a block of fixed length this is E[τ] over the cost of a round. Prompt lookup finds now more, now
    less, now nothing, and pays for what it found.
    """
    tokens = sum(min(r.accepted_length, cap + 1) for r in rounds)
    return tokens / sum(costs.round(min(r.draft_length, cap)) for r in rounds)


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
