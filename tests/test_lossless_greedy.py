"""At temperature 0 every way of decoding the lab pair gives plain decoding's tokens, and those are mlx-lm's own.

Passes over one token and over several add up their sums in different orders, so that two logits closer than float
error can change places. Where that happens the difference is called a tie, counted, and allowed once in 100
comparisons; any other difference fails with its place and margin.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from itertools import product

import mlx.core as mx
import pytest
from mlx_lm import stream_generate
from prompts import domain_prompts

import dspark_lab as lab
from dspark_lab.bench.record import make_stamp
from dspark_lab.generate import encode_prompt
from dspark_lab.pair import WEIGHTS

TOKENS = 48
TIE = 1e-4  # a margin between two logits, which are of the order of 10, that float error can turn
TIES_ALLOWED = 0.01  # of all comparisons
PROMPTS = [(domain, prompt) for domain, prompts in domain_prompts().items() for prompt in prompts]
RECORD = WEIGHTS.parent / "traces" / "lossless.json"


@dataclass(frozen=True)
class Difference:
    """Where a text first leaves plain decoding's, and the gap between the target's two top logits there."""

    mode: str
    max_draft: int
    prompt: str
    position: int
    plain: list
    other: list
    margin: float

    @property
    def tie(self):
        """Whether float error alone can have made it."""
        return self.margin < TIE


@pytest.fixture(scope="module")
def pair():
    """The lab pair."""
    return lab.load_pair()


@pytest.fixture(scope="module")
def plain(pair):
    """Plain decoding's tokens of a prompt, each prompt decoded once."""
    return cache(lambda prompt: lab.generate(pair, prompt, "baseline", max_tokens=TOKENS).tokens)


def matrix(pair):
    """Every (mode, max_draft from 1 to its whole block, prompt); "baseline" is what they are compared with."""
    cells = [(mode, n) for mode in pair.modes for n in range(1, pair.drafter(mode).draft_length + 1)]
    return [(mode, n, prompt) for (mode, n), (_, prompt) in product(cells, PROMPTS)]


def is_in_the_tenth(cell):
    """Whether this cell is in the fixed tenth that every run compares: a hash of it decides."""
    return hashlib.sha256(repr(cell).encode()).digest()[0] * 10 < 256


def top_margin(pair, prompt, tokens):
    """The gap between the target's two top logits after ``prompt`` (text) and ``tokens`` (a list)."""
    text = encode_prompt(pair, prompt) + tokens
    logits, _ = pair.target.forward(text, pair.target.new_cache())
    second, first = mx.sort(logits[-1])[-2:].tolist()
    return first - second


def first_difference(pair, cell, plain_tokens, tokens):
    """The Difference between two texts, or None if they are equal."""
    if tokens == plain_tokens:
        return None
    length = max(len(tokens), len(plain_tokens))
    at = next(i for i in range(length) if tokens[i : i + 1] != plain_tokens[i : i + 1])
    margin = top_margin(pair, cell[2], plain_tokens[:at])
    return Difference(*cell, at, plain_tokens[at : at + 1], tokens[at : at + 1], margin)


def compare(pair, plain, cells):
    """The Differences in ``cells``, printed as they are found."""
    differences = []
    for mode, max_draft, prompt in cells:
        tokens = lab.generate(pair, prompt, mode, max_tokens=TOKENS, max_draft=max_draft).tokens
        if found := first_difference(pair, (mode, max_draft, prompt), plain(prompt), tokens):
            print("tie" if found.tie else "mismatch", found)
            differences.append(found)
    return differences


def check(differences, comparisons):
    """No mismatch, and no more ties than float error explains."""
    mismatches = [found for found in differences if not found.tie]
    assert not mismatches, f"{len(mismatches)} of {comparisons} texts differ; the first: {mismatches[0]}"
    assert len(differences) <= TIES_ALLOWED * comparisons, f"{len(differences)} ties in {comparisons}: {differences}"


def test_there_are_enough_prompts_of_each_domain():
    assert {domain: len(set(prompts)) for domain, prompts in domain_prompts().items()} == dict.fromkeys(
        ("math", "code", "prose"), 34
    )


def test_a_tenth_of_the_matrix_equals_plain_decoding(pair, plain):
    cells = [cell for cell in matrix(pair) if is_in_the_tenth(cell)]
    assert {cell[0] for cell in cells} == set(pair.modes) - {"baseline"}
    assert 0.08 < len(cells) / len(matrix(pair)) < 0.12
    check(compare(pair, plain, cells), len(cells))


@pytest.mark.exhaustive
def test_the_whole_matrix_equals_plain_decoding(pair, plain):
    cells = matrix(pair)
    differences = compare(pair, plain, cells)
    record = {
        "stamp": make_stamp(pair),
        "settings": {"prompts": len(PROMPTS), "tokens": TOKENS, "temperature": 0, "tie_margin": TIE},
        "draft_lengths": {mode: pair.drafter(mode).draft_length for mode in pair.modes if mode != "baseline"},
        "comparisons": len(cells),
        "mismatches": sum(not found.tie for found in differences),
        "ties": sum(found.tie for found in differences),
        "differences": [vars(found) for found in differences],
    }
    RECORD.parent.mkdir(exist_ok=True)
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
    check(differences, len(cells))


def test_a_wrong_text_is_reported_with_its_margin(pair, plain):
    prompt = PROMPTS[0][1]
    right = plain(prompt)
    wrong = right[:5] + [right[5] + 1] + right[6:]
    found = first_difference(pair, ("dspark", 7, prompt), right, wrong)
    assert (found.position, found.plain, found.other) == (5, [right[5]], [right[5] + 1])
    assert found.margin == pytest.approx(top_margin(pair, prompt, right[:5])) and not found.tie
    with pytest.raises(AssertionError, match=r"1 of 1 texts differ.*margin="):
        check([found], 1)
    assert first_difference(pair, ("dspark", 7, prompt), right, right[:9]).position == 9


@pytest.mark.parametrize("domain", domain_prompts())
def test_every_max_tokens_is_met_exactly(pair, plain, domain):
    """On the domain's first prompt whose plain text does not end before."""
    prompt = next(p for d, p in PROMPTS if d == domain and not pair.stop_tokens & set(plain(p)[:40]))
    for mode, n in product(pair.modes, range(1, 41)):
        result = lab.generate(pair, prompt, mode, max_tokens=n)
        assert (result.tokens, result.finish_reason) == (plain(prompt)[:n], "length"), (mode, n)


@pytest.mark.parametrize("domain, prompt", [PROMPTS[i] for i in range(0, len(PROMPTS), 8)])
def test_plain_decoding_is_mlx_lms(pair, plain, domain, prompt):
    ids = encode_prompt(pair, prompt)
    theirs = [r.token for r in stream_generate(pair.target.model, pair.tokenizer, ids, max_tokens=TOKENS)]
    assert plain(prompt) == theirs
