"""Several texts at once: a pass drafts, verifies and judges for all of them together.

What a request commits is what it would commit alone: it has its own rows in the caches, its own key and its own
accepted length. What requests share is the reading of the weights; and the more they are, the less of the machine is
left for verifying drafts, so that the schedule matters more (paper, section 3.2).

Schedules for a batch are described in `batch_schedule.py`; one made for one request is asked for each by itself.
"""

import time
from collections import deque
from dataclasses import dataclass

import mlx.core as mx

from dspark_lab.batch_schedule import EachAlone
from dspark_lab.decode import chances_of, cut, prefill
from dspark_lab.drafters.side_by_side import by_length, side_by_side
from dspark_lab.generate import add_text, encode_prompt, room, stop_strings, whole_number
from dspark_lab.rounds import Round
from dspark_lab.rows import RowsKVCache
from dspark_lab.sampling import Sampling, split
from dspark_lab.schedule import WholeDraft, survival_of
from dspark_lab.text import TextStream


@dataclass
class BatchRound:
    """One pass over a batch. ``rounds``: prompt number -> Round, for every request that was in it.

    The seconds of every Round are the whole pass's, for that is what each user waited. ``width``: columns of the
    target's padded pass, the anchor and the longest draft scheduled; so ``len(rounds) * width`` tokens were computed.
    """

    rounds: dict[int, Round]
    width: int

    @property
    def tokens(self):
        """Tokens committed, of all requests together."""
        return sum(r.accepted_length for r in self.rounds.values())

    @property
    def scheduled(self):
        """Drafted tokens that the schedule let verify, of all requests together."""
        return sum(r.scheduled for r in self.rounds.values())

    @property
    def seconds(self):
        """The pass's time."""
        return next(iter(self.rounds.values())).seconds


def rounds_by_request(passes):
    """The Rounds of each request in ``passes`` (BatchRounds): prompt number -> list, in the order of the prompts."""
    rounds = {}
    for one in passes:
        for number, r in one.rounds.items():
            rounds.setdefault(number, []).append(r)
    return dict(sorted(rounds.items()))


def decode_batch(
    pair,
    prompts,
    mode=None,
    *,
    schedule=None,
    batch_size=16,
    max_tokens=128,
    temperature=0.0,
    top_p=1.0,
    top_k=0,
    seed=0,
    stop=(),
    chat=True,
):
    """Continue all ``prompts`` and return an iterator of BatchRounds, one a pass of the target.

    At most ``batch_size`` requests are decoded together; one that ends leaves, and the next prompt takes its place.
    ``schedule``: for a batch or for one request (see above); None verifies whole drafts. ``max_tokens``: one number for
    all, or a list of one a prompt. Prompt i draws with the seed ``seed + i``: whoever its neighbours are, its Rounds
    are those of ``stream(pair, prompts[i], mode, seed=seed + i, ...)``, but for times and float error. All else, and
    the errors, are as in ``stream``; a model whose layers keep anything but all keys and values is a ValueError too.
    """
    drafter, sampling = pair.drafter(mode), Sampling(temperature, top_p, top_k)
    stop = stop_strings(stop, pair.tokenizer)
    whole_number("batch_size", batch_size, 1)
    limits = list(max_tokens) if isinstance(max_tokens, list | tuple) else [max_tokens] * len(prompts)
    if isinstance(prompts, str) or not prompts or len(limits) != len(prompts):
        raise ValueError("prompts is a list of at least one prompt, and max_tokens one number or a list of as many")
    whole_number("seed", seed, 0, 2**64 - len(prompts))
    requests = []
    for i, (prompt, limit) in enumerate(zip(prompts, limits)):
        whole_number("max_tokens", limit, 1)
        ids = encode_prompt(pair, prompt, chat)
        limit = room(pair.target.context_length, len(ids), limit)
        text = TextStream(pair.tokenizer, ids[-1], stop, pair.stop_tokens)
        requests.append(Request(i, ids[:-1], ids[-1], limit, mx.random.key(int(seed) + i), text))
    for layer in pair.target.new_cache():
        RowsKVCache().add(layer)  # refuses what cannot be kept in rows
    schedule = WholeDraft() if schedule is None else schedule
    schedule = schedule if hasattr(schedule, "lengths") else EachAlone(schedule)
    return decode_rows(Batch(pair.target, drafter, sampling, schedule, pair.stop_tokens), requests, batch_size)


def decode_rows(batch, requests, batch_size):
    """The loop: yield a pass of ``batch`` with at most ``batch_size`` of ``requests`` in it, until all have ended."""
    waiting = deque(requests)
    while waiting or batch.requests:
        while waiting and len(batch.requests) < batch_size:
            batch.admit(waiting.popleft())
        result = batch.one_pass()
        yield result
        batch.keep([i for i, r in enumerate(result.rounds.values()) if not r.finish_reason])


@dataclass
class Request:
    """A text in the making. ``number``: its prompt's; ``context``: all tokens committed before its first ``anchor``.

    ``remaining``: tokens that it may still commit; ``key``: its own randomness; ``text``: a TextStream; ``survival``:
    that of its latest draft, for delayed schedules.
    """

    number: int
    context: list[int]
    anchor: int
    remaining: int
    key: mx.array
    text: TextStream
    survival: tuple[float, ...] | None = None


class Batch:
    """The requests being decoded together, row by row, and what target and drafter remember of them."""

    def __init__(self, target, drafter, sampling, schedule, stop_tokens):
        self.target, self.drafter = target, drafter
        self.sampling, self.schedule, self.stop_tokens = sampling, schedule, stop_tokens
        self.requests, self.drafting = [], side_by_side(drafter)
        self.cache = [RowsKVCache() for _ in target.new_cache()]

    def admit(self, request):
        """Bring the prompt into caches of its own, as ``decode`` does, and make them the last row of the batch's."""
        cache, draft_cache = self.target.new_cache(), self.drafter.new_cache()
        prefill(self.target, self.drafter, request.context, cache, draft_cache)
        for rows, layer in zip(self.cache, cache):
            rows.add(layer)
        mx.eval([rows.state for rows in self.cache])
        self.drafting.add(draft_cache)
        self.requests.append(request)

    def keep(self, rows):
        """Let all requests go but those in ``rows``, a list of row numbers."""
        if len(rows) < len(self.requests):
            self.requests = [self.requests[row] for row in rows]
            for part in (*self.cache, self.drafting):
                part.keep(rows)

    def one_pass(self):
        """Draft, verify, accept and commit for every row: a BatchRound."""
        start = time.perf_counter()
        keys = split(mx.stack([r.key for r in self.requests]), 3)  # (R, 3, 2)
        mx.async_eval(keys)  # greedy rounds would never ask for them
        draft, drafted, confidence = self.draft(keys[:, 1])
        drafted_at = time.perf_counter()
        scheduled = self.scheduled(drafted, confidence)
        gist, hidden = self.verify(drafted, scheduled)
        verified_at = time.perf_counter()
        accepted, committed, reasons = self.accept(gist, draft, drafted, scheduled, keys[:, 2])
        self.commit(committed, hidden, gist.shape[1])
        details = self.details(gist, draft, drafted, scheduled)
        seconds = drafted_at - start, verified_at - drafted_at, time.perf_counter() - verified_at
        rounds = {}
        for row, request in enumerate(self.requests):
            a, kept = accepted[row], len(committed[row])
            rounds[request.number] = Round(
                anchor=request.anchor,
                drafted=drafted[row],
                scheduled=scheduled[row],
                confidence=confidence[row],
                accepted=a,
                committed=committed[row],
                ending="stop" if kept <= a else "bonus" if a == scheduled[row] else "correction",
                finish_reason=reasons[row],
                **dict(zip(("draft_seconds", "verify_seconds", "other_seconds"), seconds)),
                **{name: values[row] for name, values in details.items()},
            )
            request.anchor, request.remaining, request.key = committed[row][-1], request.remaining - kept, keys[row, 0]
            add_text(rounds[request.number], request.text)
        return BatchRound(rounds, gist.shape[1])

    def draft(self, keys):
        """One padded Draft for all rows, and as lists, a row each, its tokens and its confidences (or Nones)."""
        longest, cap = self.drafter.draft_length, getattr(self.schedule, "max_draft", None)
        limit = longest if cap is None else min(cap, longest)
        # A pass commits one token more than it accepts, so the last token needs no draft.
        wanted = [min(limit, request.remaining - 1) for request in self.requests]
        draft, lengths = self.drafting.propose([r.anchor for r in self.requests], wanted, self.sampling, keys)
        mx.eval(draft.tokens, draft.confidence)
        drafted = firsts(draft.tokens, lengths)
        return draft, drafted, [None] * len(drafted) if draft.confidence is None else firsts(draft.confidence, lengths)

    def scheduled(self, drafted, confidence):
        """How many of each row's ``drafted`` tokens to verify, as the schedule has it."""
        survivals = [survival_of(c, len(own)) for c, own in zip(confidence, drafted)]
        if getattr(self.schedule, "delayed", False):
            asked = [request.survival or (1.0,) * len(own) for request, own in zip(self.requests, survivals)]
            lengths = [min(n, len(own)) for n, own in zip(self.schedule.lengths(asked), drafted)]
        else:
            lengths = list(self.schedule.lengths(survivals))
        for request, survival in zip(self.requests, survivals):
            request.survival = survival
        if len(lengths) != len(drafted) or not all(0 <= n <= len(own) for n, own in zip(lengths, drafted)):
            raise ValueError(
                f"the schedule asks for {lengths} tokens where {list(map(len, drafted))} were drafted; its lengths() "
                "must give a number for each request, from 0 to what was drafted"
            )
        return lengths

    def verify(self, drafted, scheduled):
        """One pass over anchors and scheduled tokens, padded on the right, where no real token sees it.

        Returns `Sampling.gist` (R, width, ...) and the tapped states (R, width, taps * hidden_size) or None.
        """
        width = 1 + max(scheduled)
        tokens = [[r.anchor, *own[:n]] for r, own, n in zip(self.requests, drafted, scheduled)]
        ids = mx.array([[*own, *[0] * (width - len(own))] for own in tokens])
        logits, hidden = self.target.run(ids, self.cache, self.drafter.taps)
        gist = self.sampling.gist(logits)
        mx.eval(gist, hidden)
        return gist, hidden

    def accept(self, gist, draft, drafted, scheduled, keys):
        """Three lists with an entry a row: tokens accepted, the tokens committed, and why the text ends or None."""

        def rule(n, gist, q, tokens, keys):
            return mx.vmap(self.sampling.judge)(gist[:, : n + 1], q[:, :n], tokens[:, :n], keys)

        accepted, own = by_length(rule, scheduled, gist, draft.probs, draft.tokens, keys)
        accepted, own = accepted.tolist(), own[:, 0].tolist()
        ends = [
            cut([*tokens[:a], x], request.remaining, self.stop_tokens)
            for request, tokens, a, x in zip(self.requests, drafted, accepted, own)
        ]
        return accepted, *zip(*ends)

    def commit(self, committed, hidden, width):
        """Each row forgets what it did not commit; the last committed token is the next anchor, unseen by all."""
        self.target.rollback(self.cache, [width - len(tokens) for tokens in committed])
        seen = [[request.anchor, *tokens[:-1]] for request, tokens in zip(self.requests, committed)]
        self.drafting.commit(seen, hidden)

    def details(self, gist, draft, drafted, scheduled):
        """What a Round tells of p and q: field -> a list a row."""
        lengths = {"draft_probs": [len(own) for own in drafted], "target_probs": scheduled, "overlap": scheduled}
        chances = chances_of(gist, draft, max(scheduled), self.sampling)
        mx.eval(chances)  # all at once: every separate wait costs a pass some time
        return {name: firsts(part, lengths[name]) for name, part in chances.items()}


def firsts(array, lengths):
    """The first n entries of each row of ``array`` (R, ...), n from ``lengths``, as lists."""
    return [row[:n] for row, n in zip(array.tolist(), lengths)]
