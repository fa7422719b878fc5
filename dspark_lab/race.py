"""A race: two ways of decoding one prompt take turns on one machine, each with a clock of its own."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, repeat

import mlx.core as mx

from dspark_lab import blas
from dspark_lab.decode import prefill
from dspark_lab.drafters.protocol import NoDrafter
from dspark_lab.generate import encode_prompt, stream
from dspark_lab.rounds import Round

WARM_UP_PROMPT, WARM_UP_TOKENS = 8, 256
TIE = 1e-3  # float32 logits this close may change places with the number of tokens in a pass


@dataclass
class Lane:
    """One side of a race: what ``mode`` has done so far, and the stream that goes on with it.

    ``threads``: the OpenBLAS threads that its turns run on. ``prompt``: token ids.
    """

    mode: str
    prompt: list[int]
    stream: Iterator[Round]
    threads: int = 1
    rounds: list[Round] = field(default_factory=list)

    @property
    def seconds(self):
        """The lane's clock: the sum of its own rounds. It stands still while the other lane has its turn."""
        return sum(r.seconds for r in self.rounds)

    @property
    def tokens(self):
        """All tokens committed so far."""
        return [token for r in self.rounds for token in r.committed]

    @property
    def finished(self):
        """Whether the text has ended."""
        return bool(self.rounds) and self.rounds[-1].finish_reason is not None

    def turn(self):
        """One round."""
        blas.set_threads(self.threads)
        self.rounds.append(next(self.stream))


class Recording(Lane):
    """A Lane whose rounds were recorded: a turn takes the next one, and nothing is computed."""

    def turn(self):
        """One round, as it was."""
        self.rounds.append(next(self.stream))


def record(lanes, decode, same, explanation, **about):
    """A finished race as a dict for JSON, which `replay` plays; ``same`` and ``explanation`` are `compare`'s.

    ``decode``: from a list of token ids to text. ``about``: what else is told of it: ``domain``, ``mode``,
    ``temperature`` and ``stamp``, a line with machine, versions and date.
    """
    used = {token for lane in lanes for r in lane.rounds for token in (r.anchor, *r.drafted, *r.committed)}
    return {
        **about,
        "same": same,
        "explanation": explanation,
        "words": {str(token): decode([token]) for token in sorted(used)},
        "lanes": [{"mode": lane.mode, "rounds": [r.to_dict() for r in lane.rounds]} for lane in lanes],
    }


def replay(trace):
    """The two lanes of a ``trace`` from `record`, at their start, and how to decode their tokens."""
    words = trace["words"]
    lanes = [Recording(lane["mode"], [], map(Round.from_dict, lane["rounds"])) for lane in trace["lanes"]]
    return lanes, lambda tokens: "".join(words[str(token)] for token in tokens)


def line_up(pair, prompt, mode=None, *, max_draft=None, **options):
    """The two lanes of a race, plain decoding and ``mode``, warm; ``options`` and errors are those of ``stream``."""
    ids = encode_prompt(pair, prompt)
    lanes = []
    for name, own in (("baseline", options), (pair.resolve(mode), {**options, "max_draft": max_draft})):
        threads = warm_up(pair, ids[-WARM_UP_PROMPT:], name, {**own, "max_tokens": WARM_UP_TOKENS})
        lanes.append(Lane(name, ids, stream(pair, ids, name, **own), threads))  # "auto" asks what a round costs on them
    return lanes


def warm_up(pair, ids, mode, options):
    """Decode from ``ids`` for some rounds, so that no clock pays for the first use of anything.

    Returns the number of OpenBLAS threads on which a round went fastest; plain decoding often likes fewer.
    """
    rounds = chain.from_iterable(stream(pair, ids, mode, **options) for _ in repeat(None))
    next(rounds)
    return blas.pick_threads(lambda: next(rounds))


def run(lanes):
    """Give the next turn to the lane whose clock is behind, until all have finished; yields after every turn.

    So at any moment both clocks show about the same time, as if each lane had a machine of its own.
    """
    while running := [lane for lane in lanes if not lane.finished]:
        min(running, key=lambda lane: lane.seconds).turn()
        yield


def compare(pair, lanes, temperature):
    """Whether the tokens of two finished ``lanes`` are the same: a few words, and a sentence, or "", that says more.

    At temperature 0 tokens that differ are explained by the target's two largest logits there: they may have tied.
    """
    a, b = (lane.tokens for lane in lanes)
    if temperature > 0:
        return "the same law", (
            "Above temperature 0 it is the same law, not the same text: each lane draws for itself, both from the "
            "target's own distribution."
        )
    if a == b:
        return "the same, one for one", ""
    at = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    gap = margin(pair, lanes[0].prompt + a[:at])
    ours, theirs = (repr(pair.tokenizer.decode(tokens[at : at + 1])) for tokens in (a, b))
    return f"different from token {at + 1} on", (
        f"Token {at + 1} is {ours} in plain decoding and {theirs} in {lanes[1].mode}. The target's two largest logits "
        f"there are {gap:.2g} apart, {'a tie to within float error' if gap < TIE else 'which is no tie'}."
    )


def margin(pair, tokens):
    """How far apart the target's two largest logits are after ``tokens`` (ids): near 0 the choice is a tie."""
    cache = pair.target.new_cache(rollback=False)
    prefill(pair.target, NoDrafter(), tokens[:-1], cache, None)
    logits, _ = pair.target.forward(tokens[-1:], cache)
    second, first = mx.sort(mx.topk(logits[0].astype(mx.float32), 2)).tolist()
    return first - second
