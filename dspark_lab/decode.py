"""The loop: draft, verify, accept, commit. One for every drafter, and for plain decoding."""

import time

import mlx.core as mx

from dspark_lab.drafters.protocol import empty_draft
from dspark_lab.rounds import Round
from dspark_lab.sampling import accept
from dspark_lab.schedule import scheduled_length

PREFILL_STEP = 512  # prompt tokens per pass: bounds the memory that a long prompt's attention needs


def decode(
    target, drafter, prompt, *, sampling, schedule, max_tokens, stop_tokens=(), key, keep_probs=False, caches=None
):
    """Continue ``prompt`` (token ids) and yield a Round per pass of the target, until ``max_tokens`` or a stop token.

    The last prompt token is the first anchor. Whatever the drafter proposes, the tokens have the target's own
    distribution under ``sampling``. At every yield both caches hold the prompt and all committed tokens but the last.
    ``caches``: the target's and the drafter's, which already hold what the prompt follows; empty ones if None.
    """
    cache, draft_cache = caches or new_caches(target, drafter)
    limit = drafter.draft_length if schedule.max_draft is None else min(schedule.max_draft, drafter.draft_length)
    prefill(target, drafter, prompt[:-1], cache, draft_cache)
    anchor, remaining, last = prompt[-1], max_tokens, time.perf_counter()
    while remaining:
        key, draft_key, accept_key = mx.random.split(key, 3)
        # Draft. A pass commits one token more than it accepts, so the last token needs no draft.
        length = min(limit, remaining - 1)
        draft = drafter.propose(anchor, length, draft_cache, sampling, draft_key) if length else empty_draft()
        mx.eval(draft.tokens, draft.probs, *([] if draft.confidence is None else [draft.confidence]))
        drafted = draft.tokens.tolist()
        confidence = None if draft.confidence is None else draft.confidence.tolist()
        drafted_at = time.perf_counter()

        # Verify: one pass of the target over the anchor and the scheduled tokens.
        n = scheduled_length(schedule, confidence, len(drafted))
        logits, hidden = target.forward([anchor, *drafted[:n]], cache, drafter.taps)
        p = sampling.probs(logits)  # (n + 1, vocab)
        mx.eval(p, *([] if hidden is None else [hidden]))
        verified_at = time.perf_counter()

        # Accept, and cut after a stop token. The last committed token is the next anchor, unseen by both caches.
        q, tokens = draft.probs, draft.tokens[:n]
        accepted, own = accept(p, q[:n], tokens, accept_key)
        committed, reason = cut([*drafted[:accepted], own], remaining, stop_tokens)
        kept = len(committed)
        target.rollback(cache, n + 1 - kept)
        drafter.commit([anchor, *committed[:-1]], None if hidden is None else hidden[:, :kept], draft_cache)
        yield Round(
            anchor=anchor,
            drafted=drafted,
            draft_probs=of_tokens(q, draft.tokens),
            scheduled=n,
            target_probs=of_tokens(p, tokens),
            overlap=mx.sum(mx.minimum(p[:n], q[:n]), axis=-1).tolist() if n else [],
            confidence=confidence,
            accepted=accepted,
            committed=committed,
            ending="stop" if kept <= accepted else "bonus" if accepted == n else "correction",
            draft_seconds=drafted_at - last,
            verify_seconds=verified_at - drafted_at,
            other_seconds=time.perf_counter() - verified_at,
            finish_reason=reason,
            **({"p": p, "q": q} if keep_probs else {}),
        )
        if reason:
            return
        anchor, remaining, last = committed[-1], remaining - kept, time.perf_counter()


def new_caches(target, drafter):
    """An empty cache of the target's, which rejections can be rolled back in, and one of the drafter's."""
    return target.new_cache(rollback=drafter.draft_length > 0), drafter.new_cache()


def prefill(target, drafter, tokens, cache, draft_cache):
    """Bring prompt ``tokens`` into both caches, some at a time; their logits are never computed (MLX is lazy)."""
    for start in range(0, len(tokens), PREFILL_STEP):
        step = tokens[start : start + PREFILL_STEP]
        _, hidden = target.forward(step, cache, drafter.taps)
        drafter.commit(step, hidden, draft_cache)
        mx.eval([c.state for c in cache])


def cut(tokens, remaining, stop_tokens):
    """``tokens`` up to the first stop token, itself included, and why the text ends there, or None if it goes on."""
    for i, token in enumerate(tokens):
        if token in stop_tokens:
            return tokens[: i + 1], "stop"
    return tokens, "length" if len(tokens) == remaining else None


def of_tokens(probs, tokens):
    """The probability that each row of ``probs`` (n or more, vocab) gives its token of ``tokens`` (n,), as floats."""
    if not tokens.size:
        return []
    return mx.take_along_axis(probs[: tokens.shape[0]], tokens[:, None], -1)[:, 0].tolist()
