"""The loop: draft, verify, accept, commit. One for every drafter, and for plain decoding."""

import time

import mlx.core as mx

from dspark_lab.drafters.protocol import empty_draft
from dspark_lab.rounds import NO_DRAFT, Round
from dspark_lab.schedule import scheduled_length, survival_of

PREFILL_STEP = 512  # prompt tokens per pass: bounds the memory that a long prompt's attention needs


def decode(
    target, drafter, prompt, *, sampling, schedule, max_tokens, stop_tokens=(), key, keep_probs=False, caches=None
):
    """Continue ``prompt`` (token ids) and yield a Round per pass of the target, until ``max_tokens`` or a stop token.

    The last prompt token is the first anchor. Whatever the drafter proposes, the tokens have the target's own
    distribution under ``sampling``. When the loop is left both caches hold the prompt and all committed tokens but the
    last; before, rounds without a draft make the target's run ahead by one (`Leader`), the drafter's lag (`Follower`).
    ``caches``: the target's and the drafter's, which already hold what the prompt follows; empty ones if None.
    """
    cache, draft_cache = caches or new_caches(target, drafter)
    prefill(target, drafter, prompt[:-1], cache, draft_cache)
    anchor, remaining, last = prompt[-1], max_tokens, time.perf_counter()
    draft_key = accept_key = key  # greedy rounds leave nothing to chance
    with Leader(target, cache, drafter.taps, sampling) as leader, Follower(drafter, draft_cache) as follower:
        while remaining:
            if sampling.temperature:
                key, draft_key, accept_key = mx.random.split(key, 3)
            # Draft. A pass commits one token more than it accepts, so the last token needs no draft.
            limit = drafter.draft_length if schedule.max_draft is None else schedule.max_draft
            draft = follower.propose(anchor, min(limit, drafter.draft_length, remaining - 1), sampling, draft_key)
            n = length_to_verify(draft, schedule)
            drafted_at = time.perf_counter()

            # Verify: one pass of the target over the anchor and the scheduled tokens.
            gist, hidden = leader.begin(anchor, draft.tokens[:n])
            accepted, own = sampling.judge(gist, draft.probs[:n], draft.tokens[:n], accept_key)
            chances = chances_of(gist, draft, n, sampling)
            mx.async_eval(accepted, own, chances)
            if not draft.tokens.size and remaining > 1 and drafts_nothing_next(drafter, schedule):
                leader.run_ahead(own)
            if draft.tokens.size and not schedule.reads_draft:
                mx.eval(draft.tokens)  # only now, for the clock's sake
                drafted_at = time.perf_counter()
            mx.eval(gist, hidden)
            verified_at = time.perf_counter()

            # Accept, and cut after a stop token. The last committed token is the next anchor, unseen by both caches.
            mx.eval(accepted, own, chances)  # all at once: every separate wait costs a round some time
            accepted, own, drafted = accepted.item(), own.item(), draft.tokens.tolist()
            committed, reason = cut([*drafted[:accepted], own], remaining, stop_tokens)
            kept = len(committed)
            target.rollback(cache, n + 1 - kept)
            follower.commit([anchor, *committed[:-1]], None if hidden is None else hidden[:, :kept], last=bool(reason))
            r = Round(
                anchor=anchor,
                drafted=drafted,
                scheduled=n,
                **{name: values.tolist() for name, values in chances.items()},
                confidence=as_list(draft.confidence),
                accepted=accepted,
                committed=committed,
                ending="stop" if kept <= accepted else "bonus" if accepted == n else "correction",
                draft_seconds=drafted_at - last,
                verify_seconds=verified_at - drafted_at,
                other_seconds=time.perf_counter() - verified_at,
                finish_reason=reason,
                **({"p": sampling.whole(gist, target.vocab_size), "q": draft.probs} if keep_probs else {}),
            )
            yield r
            if reason:
                return
            last, anchor, remaining, schedule = time.perf_counter(), committed[-1], remaining - kept, schedule.after(r)


def length_to_verify(draft, schedule):
    """How many tokens of ``draft`` the ``schedule`` admits. Only if it reads drafts is this one waited for."""
    mx.async_eval(draft.tokens, draft.confidence)
    confidence = None
    if schedule.reads_draft:
        mx.eval(draft.tokens)
        confidence = as_list(draft.confidence)
    return scheduled_length(schedule, survival_of(confidence, draft.tokens.size))


def as_list(array):
    """``array`` as a list, once it is computed; None for None."""
    return None if array is None else array.tolist()


def drafts_nothing_next(drafter, schedule):
    """Whether after a round without a draft another one is sure to follow, whatever token that round brings."""
    return drafter.draft_length == 0 or schedule.after(NO_DRAFT).max_draft == 0


class Leader:
    """Stands between the loop and the target, so that where nothing is drafted the target never waits for Python.

    The next pass is then known but for its token, and that is an array already: the pass is described and begun while
    this one is still computed. It takes a cache that can forget, for a stop token may turn out to need no successor.
    """

    def __init__(self, target, cache, taps, sampling):
        self.target, self.cache, self.taps, self.sampling, self.ahead = target, cache, taps, sampling, None

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.take_back()

    def begin(self, anchor, drafted):
        """Begin a pass over ``anchor`` and the tokens ``drafted`` (n,), an array that need not be computed yet.

        Returns `Sampling.gist` of its logits, and its tapped states or None. MLX computes them while Python goes on. Of
        the anchor alone it is the pass that ran ahead, if one did.
        """
        if self.ahead and not drafted.size:
            begun, self.ahead = self.ahead, None
            return begun
        self.take_back()
        return self.start(mx.concatenate([mx.array([anchor], drafted.dtype), drafted]))

    def start(self, tokens):
        """What ``begin`` returns, of a pass over ``tokens`` (n,)."""
        logits, hidden = self.target.forward(tokens, self.cache, self.taps)
        gist = self.sampling.gist(logits)
        mx.async_eval(gist, hidden)
        return gist, hidden

    def run_ahead(self, token):
        """Begin the next round's pass, over ``token`` (1,), an array that need not be computed yet."""
        if all(entry.is_trimmable() for entry in self.cache):
            self.ahead = self.start(token)

    def take_back(self):
        """Forget the pass that ran ahead, if one did."""
        if self.ahead:
            self.ahead = None
            self.target.rollback(self.cache, 1)


class Follower:
    """Stands between the loop and a drafter's cache, so that rounds without a draft cost the drafter next to nothing.

    What they commit waits, and goes in together before the next draft, or when the text ends or the loop is left: eight
    rows cost hardly more than one. Rounds with a draft commit at once.
    """

    def __init__(self, drafter, cache):
        self.drafter, self.cache, self.waiting, self.drafting = drafter, cache, [], False

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.catch_up()

    def propose(self, anchor, length, sampling, key):
        """The drafter's proposal, or an empty draft for ``length`` 0."""
        self.drafting = length > 0
        if not self.drafting:
            return empty_draft()
        self.catch_up()
        return self.drafter.propose(anchor, length, self.cache, sampling, key)

    def commit(self, tokens, hidden, last):
        """What ``Drafter.commit`` is to be told, now or later; ``last``: the text has ended."""
        self.waiting.append((tokens, hidden))
        if self.drafting or last:
            self.catch_up()

    def catch_up(self):
        """Commit all that waits."""
        if not self.waiting:
            return
        tokens, hidden = zip(*self.waiting)
        together = None if hidden[0] is None else mx.concatenate(hidden, axis=1)
        self.drafter.commit([token for part in tokens for token in part], together, self.cache)
        self.waiting.clear()


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


def chances_of(gist, draft, n, sampling):
    """What a Round keeps of ``gist``, of n + 1 or more positions, and of ``draft``, one or padded rows, as arrays.

    Of every drafted token its q, (..., γ); of the ``n`` verified ones p and the overlap sum(min(p, q)), (..., n), which
    at temperature 0 is p. Not yet computed: MLX is lazy. Nothing where nothing was drafted.
    """
    if not draft.tokens.size:
        return {}
    if sampling.temperature == 0:
        same = (gist[..., :n] == draft.tokens[..., :n]).astype(mx.float32)
        return {"draft_probs": mx.ones(draft.tokens.shape), "target_probs": same, "overlap": same}
    p, q, tokens = gist[..., :n, :], draft.probs, draft.tokens[..., None]
    return {
        "draft_probs": mx.take_along_axis(q, tokens, -1)[..., 0],
        "target_probs": mx.take_along_axis(p, tokens[..., :n, :], -1)[..., 0],
        "overlap": mx.sum(mx.minimum(p, q[..., :n, :]), axis=-1),
    }
