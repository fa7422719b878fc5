"""The target answers the training prompts: drafters learn from what it says, not from what a book says."""

import mlx.core as mx
from mlx_lm.models.cache import BatchKVCache

from dspark_lab.sampling import sample


def respond(model, prompts, max_tokens, stop_token, temperature, key, batch_size, advance=lambda n: None):
    """Sample an answer of at most ``max_tokens`` to every prompt (lists of token ids), many at once.

    Returns lists of token ids, in the prompts' order, that end with ``stop_token`` unless they ran out of tokens.
    Prompts are answered by length, so that little padding is needed; ``advance(n)`` hears of every n answered.
    """
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    answers = [None] * len(prompts)
    for at in range(0, len(order), batch_size):
        rows = order[at : at + batch_size]
        key, subkey = mx.random.split(key)
        drawn = respond_batch(model, [prompts[i] for i in rows], max_tokens, stop_token, temperature, subkey)
        for i, tokens in zip(rows, drawn):
            answers[i] = tokens[: tokens.index(stop_token) + 1] if stop_token in tokens else tokens
        advance(len(rows))
    return answers


def respond_batch(model, prompts, max_tokens, stop_token, temperature, key):
    """``max_tokens`` tokens, or fewer once all have stopped, for each prompt; left-padded to one length."""
    width = max(map(len, prompts))
    padding = [width - len(prompt) for prompt in prompts]
    cache = [BatchKVCache(padding) for _ in model.layers]
    logits = model(mx.array([[0] * pad + prompt for pad, prompt in zip(padding, prompts)]), cache=cache)[:, -1]
    drawn, running = [], mx.ones((len(prompts),), mx.bool_)
    for step in range(max_tokens):
        key, subkey = mx.random.split(key)
        logits = logits.astype(mx.float32)
        tokens = sample(mx.softmax(logits / temperature, -1), subkey) if temperature else mx.argmax(logits, -1)
        drawn.append(tokens)
        running = running & (tokens != stop_token)
        logits = model(tokens[:, None], cache=cache)[:, -1]
        mx.async_eval(logits, running)
        if step % 16 == 15 and not mx.any(running).item():
            break
    return mx.stack(drawn, axis=1).tolist()
