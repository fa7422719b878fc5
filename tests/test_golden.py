"""The golden checkpoints: what DeepSpec's and z-lab's own torch code computed from them (golden/README.md)."""

import json
from types import SimpleNamespace

import mlx.core as mx
import pytest

from dspark_lab.decode import decode
from dspark_lab.drafters.load import load_drafter
from dspark_lab.drafters.protocol import NoDrafter
from dspark_lab.sampling import Sampling
from dspark_lab.schedule import Threshold, WholeDraft

BLOCK = ["dspark_vanilla", "dspark_gated", "dspark_rnn", "dflash_block7", "zlab_dflash_b16"]
TOLERANCE = 1e-4


class Spy(Sampling):
    """Greedy sampling that keeps the logits it is asked about, one row a position."""

    def __init__(self):
        super().__init__()
        object.__setattr__(self, "rows", [])

    def choose(self, logits, key):
        self.rows.extend(logits.reshape(-1, logits.shape[-1]))
        return super().choose(logits, key)


@pytest.fixture(scope="module")
def expected(golden_folder):
    return json.loads((golden_folder / "expected.json").read_text())


@pytest.fixture(scope="module")
def arrays(golden_folder):
    return mx.load(str(golden_folder / "expected.safetensors"))


def difference(ours, theirs):
    """The largest absolute difference; the shapes must agree."""
    assert ours.shape == theirs.shape
    return mx.max(mx.abs(ours - theirs)).item()


def first_pass(target, expected):
    """The target's logits and tapped states of prompt 0."""
    return target.forward(expected["prompts"][0], target.new_cache(), expected["target_layer_ids"])


def test_target(golden, expected, arrays):
    logits, hidden = first_pass(golden.target, expected)
    assert difference(logits, arrays["target_logits_prompt0"]) < TOLERANCE
    assert difference(hidden[0], arrays["target_hidden_prompt0"]) < TOLERANCE


@pytest.mark.parametrize("name", BLOCK)
def test_first_draft(golden, golden_folder, expected, arrays, name):
    drafter = load_drafter(golden_folder / name, golden.target)
    anchor, cache = expected["anchor_prompt0"], drafter.new_cache()
    drafter.commit(expected["prompts"][0], first_pass(golden.target, expected)[1], cache)
    if f"{name}.block_hidden" in arrays:
        states = drafter.draft_states(anchor, cache)[0]
        assert difference(states, arrays[f"{name}.block_hidden"]) < TOLERANCE
        assert difference(drafter.base_logits(states), arrays[f"{name}.base_logits"]) < TOLERANCE
    spy = Spy()
    draft = drafter.propose(anchor, drafter.draft_length, cache, spy, mx.random.key(0))
    assert difference(mx.stack(spy.rows), arrays[f"{name}.logits"]) < TOLERANCE
    assert draft.tokens.tolist() == arrays[f"{name}.tokens"].tolist()
    confidence = arrays.get(f"{name}.confidence_logits")
    assert (draft.confidence is None) == (confidence is None)
    if confidence is not None:
        assert difference(draft.confidence, mx.sigmoid(confidence)) < TOLERANCE


def greedy_rounds(golden, drafter, prompt, threshold, tokens):
    """The rounds of a greedy text that start before ``tokens`` tokens are out."""
    schedule = Threshold(threshold) if threshold else WholeDraft()
    rounds = decode(golden.target, drafter, prompt, sampling=Sampling(), schedule=schedule,
                    max_tokens=tokens + drafter.draft_length, key=mx.random.key(0))  # fmt: skip
    kept, out = [], 0
    while out < tokens:
        kept.append(next(rounds))
        out += kept[-1].accepted_length
    return kept


@pytest.mark.parametrize("name", [*BLOCK, "eagle3"])
def test_rounds(golden, golden_folder, expected, name):
    """Tokens, accepted lengths and proposal lengths of every recorded text, exactly."""
    drafter = load_drafter(golden_folder / name, golden.target)
    runs, n = expected[name], expected["new_tokens"]
    by_threshold = {threshold: [r for r in runs if r.get("threshold", 0) == threshold] for threshold in (0, 0.6)}
    assert len(by_threshold[0]) == len(expected["prompts"])
    assert len(by_threshold[0.6]) == (len(expected["prompts"]) if name.startswith("dspark") else 0)
    for threshold, group in by_threshold.items():
        for prompt, plain, run in zip(expected["prompts"], expected["greedy"], group):
            rounds = greedy_rounds(golden, drafter, [*prompt, plain[0]], threshold, n - 1)
            assert [plain[0], *(token for r in rounds for token in r.committed)][:n] == run["output"] == plain
            assert [r.accepted_length for r in rounds] == run["accept_lengths"][: len(rounds)]
            assert [r.scheduled for r in rounds] == run["proposal_lengths"][: len(rounds)]
            assert len(run["accept_lengths"]) - len(rounds) in (0, 1)  # the reference counts on to a sum of 64


def test_plain_decoding(golden, expected):
    for prompt, plain in zip(expected["prompts"], expected["greedy"]):
        rounds = greedy_rounds(golden, NoDrafter(), prompt, 0, expected["new_tokens"])
        assert [r.committed for r in rounds] == [[token] for token in plain]


def test_gemma_drafter(golden_folder):
    """Three rounds through one draft cache, on the tapped states that the reference was given."""
    folder = golden_folder / "gemma4_dspark"
    arrays = mx.load(str(folder / "expected.safetensors"))
    drafter = load_drafter(folder, SimpleNamespace(vocab_size=160, hidden_size=64, num_layers=8), dtype=mx.float32)
    cache = drafter.new_cache()
    for i, facts in enumerate(json.loads((folder / "expected.json").read_text())["rounds"]):
        context = arrays[f"round{i}.context"]
        drafter.commit([0] * len(context), context[None], cache)  # a block drafter looks at the states alone
        assert [layer.offset for layer in cache] == [facts["start"]] * 2
        states = drafter.draft_states(facts["anchor"], cache)[0]
        assert difference(drafter.base_logits(states), arrays[f"round{i}.base_logits"]) < TOLERANCE
        spy = Spy()
        draft = drafter.propose(facts["anchor"], 7, cache, spy, mx.random.key(0))
        assert difference(mx.stack(spy.rows), arrays[f"round{i}.logits"]) < TOLERANCE
        assert draft.tokens.tolist() == arrays[f"round{i}.tokens"].tolist()
        assert difference(draft.confidence, mx.sigmoid(arrays[f"round{i}.confidence_logits"])) < TOLERANCE
