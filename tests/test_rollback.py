"""Targets that are harder to roll back: sliding windows (Gemma-4) and recurrent layers (Qwen3.5), tiny and random.

After a rejection the caches must hold what they would hold had the rejected tokens never been seen.
"""

import copy
import json
from dataclasses import dataclass, field

import mlx.core as mx
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_lm.models.cache import ArraysCache, RotatingKVCache
from typer.testing import CliRunner

import dspark_lab as lab
from dspark_lab import cli
from dspark_lab.decode import decode
from dspark_lab.drafters.load import load_drafter
from dspark_lab.drafters.protocol import Draft
from dspark_lab.packaging import from_mlx_vlm
from dspark_lab.pair import load_target
from dspark_lab.rollback import SLACK, CannotRollBack, RecurrentCache, SlidingCache
from dspark_lab.sampling import Sampling, one_hot
from dspark_lab.schedule import WholeDraft
from dspark_lab.target import Target

TOLERANCE = 1e-4
BLOCK = 6  # draft tokens verified in a pass
KINDS = {
    "gemma4": (tiny.GEMMA4, tiny.write_mlx_lm),
    "gemma4 with shared keys": (tiny.GEMMA4_SHARED, tiny.write_mlx_lm),
    "gemma4 in mlx-vlm": (tiny.GEMMA4_UNIFIED, tiny.write_mlx_vlm),
    "qwen3.5": (tiny.QWEN35, tiny.write_mlx_lm),
    "qwen3.5 with experts": (tiny.QWEN35_MOE, tiny.write_mlx_lm),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Where each kind's checkpoint lies; it is written when it is first asked for."""
    root, written = tmp_path_factory.mktemp("targets"), {}

    def folder(kind):
        if "mlx-vlm" in kind:
            pytest.importorskip("mlx_vlm", reason="the extra vlm is not installed")
        if kind not in written:
            config, write = KINDS[kind]
            written[kind] = write(root / kind.replace(" ", "_"), config)
        return written[kind]

    return folder


@pytest.fixture(scope="module", params=KINDS)
def target(request, folders):
    folder = folders(request.param)
    loaded, config = load_target(folder)
    if "mlx-vlm" in request.param:
        model = from_mlx_vlm(folder)
        model.set_dtype(mx.float32)
        return Target(model, config)
    return loaded


def tokens(n, seed=0):
    return mx.random.randint(0, tiny.VOCAB, (n,), key=mx.random.key(seed)).tolist()


def one_by_one(target, text):
    """The plain cache and the last logits after each token of ``text``, one token a pass."""
    cache = target.new_cache(rollback=False)
    for token in text:
        logits, _ = target.forward([token], cache)
        mx.eval(logits, [entry.state for entry in cache])
        yield copy.deepcopy(cache), logits[-1]


def contents(entry, window):
    """The arrays of a cache entry that later passes will see."""
    if isinstance(entry, ArraysCache):
        return entry.cache
    sliding = isinstance(entry, SlidingCache) or hasattr(entry, "max_size")
    entry = getattr(entry, "held", entry)
    if hasattr(entry, "max_size"):
        held = entry._temporal_order(entry.keys), entry._temporal_order(entry.values)
    else:
        held = [x[..., : entry.offset, :] for x in (entry.keys, entry.values)]
    return [x[..., -(window - 1) :, :] if sliding else x for x in held]


def difference(ours, theirs):
    assert ours.shape == theirs.shape
    return mx.max(mx.abs(ours - theirs)).item()


@pytest.mark.parametrize("held", [3, tiny.WINDOW - 4, tiny.WINDOW, 3 * tiny.WINDOW])
def test_state_after_a_rejection(target, held):
    """At every position of the block: the caches, and the logits after them, are those of sequential decoding."""
    text = tokens(held + 2 * BLOCK + 1)
    plain = dict(enumerate(one_by_one(target, text), 1))
    for accepted in range(BLOCK + 1):
        cache, kept = target.new_cache(), held + 1 + accepted
        target.forward(text[:held], cache)
        target.forward(text[held:kept] + tokens(BLOCK - accepted, seed=1), cache)
        target.rollback(cache, BLOCK - accepted)
        for ours, theirs in zip(cache, plain[kept][0]):
            assert not hasattr(ours, "offset") or ours.offset == theirs.offset == kept
            for x, y in zip(contents(ours, tiny.WINDOW), contents(theirs, tiny.WINDOW)):
                assert difference(x, y) < TOLERANCE
        logits, _ = target.forward(text[kept : kept + BLOCK], cache)
        for i, row in enumerate(logits, kept + 1):
            assert difference(row, plain[i][1]) < TOLERANCE


@dataclass
class Scripted:
    """Drafts ``text`` itself, but for the positions of it in ``wrong``."""

    text: list
    wrong: set = field(default_factory=set)
    mode: str = "scripted"
    taps: tuple = (1,)
    draft_length: int = BLOCK

    def new_cache(self):
        return []

    def commit(self, tokens, hidden, cache):
        assert hidden.shape == (1, len(tokens), tiny.HIDDEN)
        cache.extend(tokens)

    def propose(self, anchor, length, cache, sampling, key):
        start = len(cache) + 1
        drafted = [
            (token + (start + i in self.wrong)) % tiny.VOCAB for i, token in enumerate(self.text[start:][:length])
        ]
        return Draft(mx.array(drafted, dtype=mx.int32), one_hot(mx.array(drafted), tiny.VOCAB))


def greedy(target, drafter, prompt, n):
    """The rounds of ``n`` greedy tokens."""
    return list(decode(target, drafter, prompt, sampling=Sampling(), schedule=WholeDraft(), max_tokens=n,
                       key=mx.random.key(0)))  # fmt: skip


def plain_text(target, prompt, n):
    """``n`` tokens of plain greedy decoding, on mlx's own caches, and the smallest gap between two top logits."""
    cache, text, margin = target.new_cache(rollback=False), [], mx.inf
    logits, _ = target.forward(prompt, cache)
    for _ in range(n):
        second, first = mx.sort(logits[-1])[-2:].tolist()
        text.append(mx.argmax(logits[-1]).item())
        margin = min(margin, first - second)
        logits, _ = target.forward(text[-1:], cache)
    return text, margin


@pytest.mark.parametrize("position", range(1, BLOCK + 1))
@pytest.mark.parametrize("prompt_length", [1, tiny.WINDOW - 3])
def test_tokens_with_a_rejection_at_each_position(target, position, prompt_length):
    """Every round rejects the draft at ``position``; the text crosses the window's edge and is plain decoding's."""
    prompt = tokens(prompt_length)
    plain, margin = plain_text(target, prompt, 40)
    text, wrong = prompt + plain, set(range(prompt_length - 1 + position, 200, position))
    rounds = greedy(target, Scripted(text, wrong), prompt, 40)
    assert [token for r in rounds for token in r.committed] == plain, f"the smallest margin is {margin}"
    assert [r.accepted for r in rounds[:-1]] == [position - 1] * (len(rounds) - 1)


def drafters(target, folder):
    """A random drafter of every mode for ``target``, written to ``folder`` and loaded; taps that every kind has."""
    gemma = getattr(target._body, "embed_scale", 1) != 1
    shape = {**tiny.DEEPSPEC, **(tiny.GEMMA4_SHAPE if gemma else {})}
    name = "Gemma4" if gemma else "Qwen3"
    configs = {
        "dspark": {**shape, **tiny.HEADS, "architectures": [f"{name}DSparkModel"]},
        "dflash": {**shape, "architectures": [f"{name}DSparkModel"]},
        "dflash16": tiny.ZLAB,
        "eagle3": {**shape, "num_hidden_layers": 1, "ttt_length": 5, "architectures": [f"{name}Eagle3Model"]},
        "speculator": tiny.SPECULATOR,
    }
    return {
        mode: load_drafter(tiny.write_drafter(folder / mode, target, config), target)
        for mode, config in configs.items()
    }


def test_greedy_text_in_every_mode(target, tmp_path):
    """Across the window's edge from either side, with whole drafts of random drafters and of lookup."""
    pair = lab.Pair(target, drafters(target, tmp_path), name="tiny")
    accepted = 0
    for prompt_length in (1, tiny.WINDOW - 1):
        prompt = tokens(prompt_length, seed=prompt_length)
        plain, margin = plain_text(target, prompt, 24)
        for mode in pair.modes:
            result = lab.generate(pair, prompt, mode, max_tokens=24)
            assert result.tokens == plain, f"{mode}; the smallest margin is {margin}"
            accepted += sum(r.accepted for r in result.rounds)
    assert accepted > 0


def test_sampling_meets_the_targets_own_probabilities(target):
    """In every round, whatever was rejected before: p is what a pass over the whole text from nothing gives."""
    text = tokens(tiny.WINDOW)
    plain, _ = plain_text(target, text, 40)
    rounds = decode(target, Scripted(text + plain), text, sampling=Sampling(1.0), schedule=WholeDraft(),
                    max_tokens=30, key=mx.random.key(3), keep_probs=True)  # fmt: skip
    rejections = 0
    for r in rounds:
        logits, _ = target.forward(text + r.drafted[: r.scheduled], target.new_cache(rollback=False))
        assert difference(r.p, mx.softmax(logits[-r.scheduled - 1 :], axis=-1)) < TOLERANCE
        text, rejections = text + r.committed, rejections + (r.ending == "correction")
    assert rejections > 2


def test_the_embedding_is_what_the_layers_get(target):
    ids = mx.array([tokens(5)])
    _, hidden = target.run(ids, target.new_cache(), (-1,))
    seen = []
    layer = target._body.layers[0]
    original = type(layer).__call__
    try:
        type(layer).__call__ = lambda self, x, *args, **kwargs: (seen.append(x), original(self, x, *args, **kwargs))[1]
        target.run(ids, target.new_cache(), ())
    finally:
        type(layer).__call__ = original
    assert difference(hidden, seen[0]) == 0


def test_two_packagings_are_one_model(folders):
    """The same checkpoint through mlx-lm's text model and through mlx-vlm."""
    folder = folders("gemma4 in mlx-vlm")
    ours, config = load_target(folder)
    assert type(ours.model).__module__.startswith("mlx_lm.")
    theirs = Target(from_mlx_vlm(folder), config)
    assert type(theirs.model).__module__.startswith("mlx_vlm.")
    text = tokens(3 * tiny.WINDOW)
    logits = [t.forward(text, t.new_cache())[0] for t in (ours, theirs)]
    assert difference(*logits) < TOLERANCE


def test_what_mlx_lm_cannot_load_goes_to_mlx_vlm(folders, monkeypatch):
    import mlx_lm.utils

    def refuse(*args, **kwargs):
        raise ValueError("Model type not supported.")

    monkeypatch.setattr(mlx_lm.utils, "load_model", refuse)
    target, _ = load_target(folders("gemma4 in mlx-vlm"))
    assert type(target.model).__module__ == "mlx_vlm.models.gemma4.language"
    with pytest.raises(ValueError, match=r"mlx-lm cannot load .*Model type not supported"):
        load_target(folders("qwen3.5"))  # it is text alone, so that mlx-vlm is not asked
    monkeypatch.setattr("dspark_lab.packaging.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'mlx-vlm may: pip install "dspark-lab\[vlm\]"'):
        load_target(folders("gemma4 in mlx-vlm"))


@settings(max_examples=60, deadline=None)
@given(
    passes=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=40),
    window=st.integers(1, 11),
    slack=st.sampled_from([1, 3, SLACK]),
)
def test_sliding_cache_is_a_window_on_a_plain_one(passes, window, slack):
    """Passes of any length, each followed by a rollback of any part of it; masks and contents at every step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dspark_lab.rollback.SLACK", slack)
        sliding, text = SlidingCache(window), []
        for i, (n, back) in enumerate(passes):
            rotating = RotatingKVCache(window)
            if text:
                rotating.update_and_fetch(*[mx.array(text, dtype=mx.float32).reshape(1, 1, -1, 1)] * 2)
            mask, expected = (
                entry.make_mask(n, window_size=window, return_array=True) for entry in (sliding, rotating)
            )
            new = [1000 * i + j for j in range(n)]
            keys, values = sliding.update_and_fetch(*[mx.array(new, dtype=mx.float32).reshape(1, 1, n, 1)] * 2)
            text += new
            assert keys.flatten().tolist() == values.flatten().tolist() == text[-(window - 1 + n) :]
            if n > 1:
                assert mask.tolist() == expected.tolist()
            sliding.trim(min(back, n))
            del text[len(text) - min(back, n) :]
            assert sliding.offset == len(text)


def test_what_is_gone_is_not_pretended():
    sliding = SlidingCache(4)
    for _ in range(2):
        sliding.update_and_fetch(mx.zeros((1, 1, SLACK + 9, 1)), mx.zeros((1, 1, SLACK + 9, 1)))
    sliding.update_and_fetch(mx.zeros((1, 1, 2, 1)), mx.zeros((1, 1, 2, 1)))
    with pytest.raises(CannotRollBack, match="3 tokens cannot be taken back"):
        sliding.trim(3)
    assert sliding.trim(2) == 2


@pytest.fixture(scope="module")
def recurrent(folders):
    return load_target(folders("qwen3.5"))[0]


def test_a_recurrent_state_goes_back_once(recurrent):
    cache = recurrent.new_cache()
    recurrent.forward(tokens(9), cache)
    recurrent.rollback(cache, 0)
    recurrent.rollback(cache, 9)  # the whole pass: empty again
    assert all(entry.empty() for entry in cache if isinstance(entry, RecurrentCache))
    with pytest.raises(CannotRollBack, match="only the latest pass, of at most 64 tokens"):
        recurrent.rollback(cache, 1)
    recurrent.forward(tokens(65), cache)
    with pytest.raises(CannotRollBack, match="a recurrent state cannot go back 1 tokens"):
        recurrent.rollback(cache, 1)


def test_replaying_reads_no_weights_of_the_projections(recurrent):
    """What they returned is on record; nothing of the layer stays replaced."""
    cache = recurrent.new_cache()
    layer = recurrent._body.layers[0]
    before = dict(layer.linear_attn)
    recurrent.forward(tokens(5), cache)
    projections = {"in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a"}
    assert cache[0]._undo[2].keys() == projections
    recurrent.rollback(cache, 2)
    assert all(layer.linear_attn[name] is part for name, part in before.items())
    assert layer.linear_attn.keys() == before.keys()


def test_entries_can_be_copied(target):
    """A copy goes on as the original does, and neither disturbs the other; the layer is not copied with it."""
    cache = target.new_cache()
    target.forward(tokens(2 * tiny.WINDOW), cache)
    copied = copy.deepcopy(cache)
    logits, _ = target.forward(tokens(4, seed=1), cache)
    target.rollback(cache, 2)
    assert difference(target.forward(tokens(4, seed=1), copied)[0], logits) < TOLERANCE
    for entry, layer in zip(copied, target._body.layers):
        assert not isinstance(entry, RecurrentCache) or entry.layer is layer


def test_the_bench_measures_every_number_kept(folders, tmp_path):
    options = {"--model": folders("qwen3.5"), "--context": 5, "--max-draft": 3, "--repeats": 1}
    options["--out"] = tmp_path / "record.json"
    arguments = [str(word) for pair in options.items() for word in pair]
    result = CliRunner().invoke(cli.app, ["bench", "rollback", *arguments], env={"COLUMNS": "120"})
    assert result.exit_code == 0, result.output
    (cells,) = json.loads(options["--out"].read_text())["cells"].values()
    assert [cell["kept"] for cell in cells] == [1, 2, 3]
    assert all(min(cell["verify"], cell["rollback"], cell["again"]) > 0 for cell in cells)
    assert "Undoing a rejection: qwen3.5" in result.output
