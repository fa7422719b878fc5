"""The round that the notebooks follow, and their prompts."""

import pytest

import dspark_lab as lab
from dspark_lab.examples import FOLLOWED, PROMPTS, followed_round


@pytest.fixture(scope="module")
def pair():
    """The lab pair."""
    return lab.load_pair()


def test_the_followed_round_is_the_first_with_a_rejection(pair):
    text, r = followed_round(pair)
    result = lab.generate(pair, FOLLOWED, "dspark")
    first = next(i for i, other in enumerate(result.rounds) if other.ending == "correction")
    assert r.to_dict() | TIMELESS == result.rounds[first].to_dict() | TIMELESS
    before = [token for other in result.rounds[:first] for token in other.committed]
    assert len(text) == result.prompt_tokens + len(before) and text[result.prompt_tokens :] == before
    assert text[-1] == r.anchor and r.scheduled == r.draft_length == 7 and len(r.p) == 8


def test_the_followed_round_needs_a_rejection(pair):
    with pytest.raises(ValueError, match="mode baseline"):
        followed_round(pair, "baseline")


def test_prompts_are_all_different_and_equally_many():
    assert len({len(prompts) for prompts in PROMPTS.values()}) == 1
    assert len({prompt for prompts in PROMPTS.values() for prompt in prompts}) == sum(map(len, PROMPTS.values()))


TIMELESS = {"draft_seconds": 0, "verify_seconds": 0, "other_seconds": 0, "text": ""}
