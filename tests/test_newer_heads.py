"""z-lab's newer heads and EAGLE-3 for Gemma-4: ours against mlx-vlm's and dflash-mlx's on the same checkpoints.

Both read the very folders that ours reads, and run on the same tapped states of the same tiny Gemma-4 or Qwen3.5.
"""

import json

import mlx.core as mx
import pytest
import tiny
from mlx.utils import tree_flatten

from dspark_lab.drafters.load import load_drafter
from dspark_lab.pair import load_target
from dspark_lab.sampling import Sampling

TOLERANCE = 1e-4
CHUNKS = [31, 1, 3, 6, 1, 1, 5, 2]  # tokens committed between drafts: beyond the drafters' windows in the first


@pytest.fixture(scope="module", params=["gemma4", "qwen3.5"])
def target(request, tmp_path_factory):
    config = {"gemma4": tiny.GEMMA4, "qwen3.5": tiny.QWEN35}[request.param]
    return load_target(tiny.write_mlx_lm(tmp_path_factory.mktemp("target") / "target", config))[0]


class Spy(Sampling):
    """Greedy sampling that keeps the logits it is asked about, one row a position."""

    def __init__(self):
        super().__init__()
        object.__setattr__(self, "rows", [])

    def choose(self, logits, key):
        self.rows.extend(logits.reshape(-1, logits.shape[-1]))
        return super().choose(logits, key)


def tokens(n, seed=0):
    return mx.random.randint(0, tiny.VOCAB, (n,), key=mx.random.key(seed)).tolist()


def difference(ours, theirs):
    assert ours.shape == theirs.shape
    return mx.max(mx.abs(ours - theirs)).item()


def their_drafter(folder):
    """mlx-vlm's drafter of the checkpoint."""
    drafters = pytest.importorskip("mlx_vlm.speculative.drafters", reason="the extra vlm is not installed")
    return drafters.load_drafter(str(folder))[0]


def rounds(target, taps):
    """For each of CHUNKS: the tokens before it is drafted, their tapped states, and the anchor that follows them."""
    text, start = tokens(sum(CHUNKS) + 1), 0
    _, hidden = target.forward(text, target.new_cache(), taps)
    for n in CHUNKS:
        yield text[start : start + n], hidden[:, start : start + n], text[start + n]
        start += n


def zlab(target, folder, top=None, **dflash):
    """Ours of a checkpoint in z-lab's format: ``top`` changes config.json, the rest its dflash_config."""
    config = {**tiny.ZLAB, **(top or {}), "dflash_config": {**tiny.ZLAB["dflash_config"], **dflash}}
    return load_drafter(tiny.write_drafter(folder, target, config), target)


def compare_logits(target, ours, theirs, skip=()):
    """Whole blocks drafted after every chunk but those in ``skip``, through one cache each."""
    theirs.bind(target.model)
    cache, other = ours.new_cache(), theirs.make_cache()
    block = ours.config.block_size
    for i, (chunk, hidden, anchor) in enumerate(rounds(target, ours.taps)):
        ours.commit(chunk, hidden, cache)
        spy = Spy()
        draft = ours.propose(anchor, block - 1, cache, spy, mx.random.key(0))
        logits = theirs(mx.array([[anchor] + [4] * (block - 1)]), hidden, other)[0, 1:]
        if i not in skip:
            assert difference(mx.stack(spy.rows), logits) < TOLERANCE, f"after chunk {i}"
            assert draft.tokens.tolist() == mx.argmax(logits, axis=-1).tolist()
    return logits


def test_causal_sliding_layers(target, tmp_path):
    """Every layer causal, two of three with a window that the context outgrows; softcap, and the target's scale.

    Not compared after a chunk of one token: mlx-vlm's rotating cache then hands out the context out of order, and masks
    it as if in order. The next longer chunk puts it right; dflash-mlx, below, is compared after every chunk.
    """
    ours = zlab(target, tmp_path, causal=True)
    assert ours.config.causal == (True,) * 3 and ours.config.windows == (14, 14, None)
    singles = {i for i, n in enumerate(CHUNKS) if n == 1}
    logits = compare_logits(target, ours, their_drafter(tmp_path), skip=singles)
    assert 0 < mx.max(mx.abs(logits)).item() < 20.0


def test_layers_that_see_both_ways(target, tmp_path):
    """Nothing causal. mlx-vlm keeps 13 positions for every slot, where z-lab's own lets the window move on by one a
    slot; they are the same while the context is short, so that is where they are compared."""
    ours = zlab(target, tmp_path, {"sliding_window": 64}, causal=False)
    assert ours.config.causal == (False,) * 3
    compare_logits(target, ours, their_drafter(tmp_path))


def test_draft_window(target, tmp_path):
    """All layers keep the last 20 positions. mlx-vlm lets its buffer run over, up to 64 more, and cuts it back to 20
    when a single token comes then: that is the second chunk."""
    layers = {"layer_types": ["full_attention"] * 3, "sliding_window": None}
    ours = zlab(target, tmp_path, layers, draft_window_size=20)
    theirs, text = their_drafter(tmp_path).bind(target.model), tokens(102)
    _, hidden = target.forward(text, target.new_cache(), ours.taps)
    cache, other = ours.new_cache(), theirs.make_cache()
    for start, end in ((0, 100), (100, 101)):
        ours.commit(text[start:end], hidden[:, start:end], cache)
        logits = theirs(mx.array([[text[end]] + [4] * 5]), hidden[:, start:end], other)[0, 1:]
    spy = Spy()
    ours.propose(text[101], 5, cache, spy, mx.random.key(0))
    assert difference(mx.stack(spy.rows), logits) < TOLERANCE
    assert (other[0]._idx, cache[0].offset) == (20, 101)


def test_sliding_layers_are_causal_unless_told(target, tmp_path):
    """What z-lab's own code and dflash-mlx do where config.json says nothing; the full layers see both ways."""
    model = pytest.importorskip("dflash_mlx.model", reason="dflash-mlx is not installed")
    backend = pytest.importorskip("dflash_mlx.draft_backend")
    ours = zlab(target, tmp_path)
    assert ours.config.causal == (True, True, False)
    arguments = model.DFlashDraftModelArgs.from_dict(json.loads((tmp_path / "config.json").read_text()))
    theirs = model.DFlashDraftModel(arguments)
    theirs.load_weights(str(tmp_path / "model.safetensors"))
    cache = ours.new_cache()
    other = backend.EagerDraftBackend().make_cache(
        draft_model=theirs, sink_size=0, window_size=1024, allow_full_context_layers=True
    )
    for chunk, hidden, anchor in rounds(target, ours.taps):
        ours.commit(chunk, hidden, cache)
        states = ours.draft_states(anchor, cache)
        block = target.embed(mx.array([[anchor] + [4] * 5]))  # dflash-mlx multiplies by the target's scale itself
        context = theirs.project_target_hidden(hidden)
        assert difference(states, theirs.forward_projected_context(noise_embedding=block, draft_context=context,
                                                                   cache=other)) < TOLERANCE  # fmt: skip


def test_embedding_scale_of_its_own(target, tmp_path):
    """``input_embedding_scale`` comes on top of the target's own scale."""
    plain, scaled = zlab(target, tmp_path / "a"), zlab(target, tmp_path / "b", input_embedding_scale=0.5)
    ids = mx.array([[1, 2, 3]])
    assert difference(scaled.embed(ids), 0.5 * plain.embed(ids)) == 0
    assert difference(plain.embed(ids), target.embed(ids)) == 0


@pytest.mark.parametrize(
    ("top", "words"),
    [
        ({"layer_types": ["sliding_attention"]}, "must name full_attention or sliding_attention for 3 layers"),
        ({"layer_types": ["linear_attention"] * 3}, "must name full_attention or sliding_attention for 3 layers"),
        ({"sliding_window": None}, "names no sliding_window"),
    ],
)
def test_layers_that_make_no_sense(target, tmp_path, top, words):
    tiny.write(tmp_path, {**tiny.ZLAB, **top}, {"x": mx.zeros(1)})
    with pytest.raises(ValueError, match=words):
        load_drafter(tmp_path, target)


SPECULATORS = {
    "as published": {},
    "other norms": {"norm_before_residual": False, "norm_before_fc": True},
    "whole vocabulary": {"draft_vocab_size": tiny.VOCAB},
}


def write_speculator(folder, target, changes):
    """A checkpoint in Speculators' format with what is stored beside the head: t2d, and the target's embedding."""
    config = {**tiny.SPECULATOR, **changes}
    weights = mx.load(str(tiny.write_drafter(folder, target, config) / "model.safetensors"))
    weights["embed_tokens.weight"] = target._body.embed_tokens.weight
    if "d2t" in weights:
        known = sorted(mx.random.permutation(tiny.VOCAB, key=mx.random.key(5))[:20].tolist())
        weights["d2t"] = mx.array([token - i for i, token in enumerate(known)], dtype=mx.int64)
        weights["t2d"] = mx.array([token in known for token in range(tiny.VOCAB)])
    tiny.write(folder, config, weights)
    return known if "d2t" in weights else list(range(tiny.VOCAB))


def test_d2t_of_fractions_is_refused(target, tmp_path):
    write_speculator(tmp_path, target, {})
    weights = mx.load(str(tmp_path / "model.safetensors"))
    tiny.write(tmp_path, tiny.SPECULATOR, {**weights, "d2t": weights["d2t"].astype(mx.float32)})
    with pytest.raises(ValueError, match=r"d2t holds mlx\.core\.float32, expected integers"):
        load_drafter(tmp_path, target)


@pytest.mark.parametrize("kind", SPECULATORS)
def test_eagle3_in_speculators_format(target, tmp_path, kind):
    """Three rounds; after each, some of mlx-vlm's own drafts are committed, and a token of the target's own."""
    known = write_speculator(tmp_path, target, SPECULATORS[kind])
    ours, theirs = load_drafter(tmp_path, target), their_drafter(tmp_path)
    assert (ours.mode, ours.draft_length, ours.taps) == ("eagle3", 4, (0, 2, 4))
    theirs.reset(target.model)
    rows = []

    def sampler(logits):
        rows.append(logits[0, -1])
        return mx.argmax(logits, axis=-1)

    prompt, cache, held = tokens(17), ours.new_cache(), target.new_cache()
    _, hidden = target.forward(prompt[:-1], held, ours.taps)
    ours.commit(prompt[:-1], hidden, cache)
    theirs.prefill_from_target_hidden(mx.array([prompt[:-1]]), hidden, prompt[-1], sampler)
    anchor = prompt[-1]
    for accepted in (2, 0, 4):
        drafted = theirs.draft_block(anchor, None, None, 5, sampler)
        spy = Spy()
        draft = ours.propose(anchor, 4, cache, spy, mx.random.key(0))
        assert draft.tokens.tolist() == drafted[0].tolist()
        assert difference(mx.stack(spy.rows)[:, mx.array(known)], mx.stack(rows)) < TOLERANCE
        assert {token for row in spy.rows for token in range(tiny.VOCAB) if row[token].item() > -mx.inf} == {*known}
        committed, own = [anchor, *draft.tokens.tolist()[:accepted]], 7
        _, hidden = target.forward([anchor, *draft.tokens.tolist()], held, ours.taps)
        target.rollback(held, 4 - accepted)
        ours.commit(committed, hidden[:, : accepted + 1], cache)
        rows.clear()
        theirs.accept_verified_tokens(hidden, drafted, accepted, [*committed[1:], own], sampler)
        anchor = own


def test_eagle3_of_more_layers_is_refused(target, tmp_path):
    layer = {**tiny.SPECULATOR["transformer_layer_config"], "num_hidden_layers": 2}
    tiny.write(tmp_path, {**tiny.SPECULATOR, "transformer_layer_config": layer}, {"x": mx.zeros(1)})
    with pytest.raises(ValueError, match="the EAGLE-3 head has 2 layers; only heads of one layer"):
        load_drafter(tmp_path, target)


def test_eagle3_in_deepspecs_format_for_gemma4(tmp_path_factory):
    """Against a layer put together from mlx-lm's own Gemma-4 parts, over the whole text at once and without a cache."""
    folder = tmp_path_factory.mktemp("eagle3")
    target, _ = load_target(tiny.write_mlx_lm(folder / "target", tiny.GEMMA4))
    shape = {**tiny.DEEPSPEC, **tiny.GEMMA4_SHAPE, "num_hidden_layers": 1, "ttt_length": 5}
    tiny.write_drafter(folder / "head", target, {**shape, "architectures": ["Gemma4Eagle3Model"]})
    ours, text = load_drafter(folder / "head", target), tokens(19)
    _, hidden = target.forward(text[:-1], target.new_cache(), ours.taps)
    cache, spy = ours.new_cache(), Spy()
    for start, end in ((0, 11), (11, 12), (12, 18)):
        ours.commit(text[start:end], hidden[:, start:end], cache)
    drafted = ours.propose(text[-1], 4, cache, spy, mx.random.key(0)).tokens.tolist()
    layer, weights = gemma_layer(folder / "head"), mx.load(str(folder / "head" / "model.safetensors"))
    features, inputs = hidden @ weights["fc.weight"].T, text[1:]
    for step in range(4):
        embedded = weights["embed_tokens.weight"][mx.array([inputs])] * tiny.HIDDEN**0.5
        states = layer(embedded, features)
        logits = mx.fast.rms_norm(states[0, -1], weights["norm.weight"], 1e-6) @ weights["lm_head.weight"].T
        assert difference(spy.rows[step], 30.0 * mx.tanh(logits / 30.0)) < TOLERANCE
        features = mx.concatenate([features, states[:, -1:]], axis=1)
        inputs = [*inputs, drafted[step]]


def gemma_layer(folder):
    """EAGLE-3's layer of the checkpoint as a function (embedded, features) -> output, of mlx-lm's parts."""
    import mlx.nn as nn
    from mlx_lm.models import gemma4_text

    arguments = gemma4_text.ModelArgs.from_dict({**tiny.GEMMA4, "layer_types": ["full_attention"] * tiny.LAYERS})
    layer = gemma4_text.DecoderLayer(arguments, 0)
    for name, size in (("q_proj", 4 * 32), ("k_proj", 32)):
        layer.self_attn[name] = nn.Linear(2 * tiny.HIDDEN, size, bias=False)
    layer.hidden_norm = nn.RMSNorm(tiny.HIDDEN, eps=1e-6)
    weights = mx.load(str(folder / "model.safetensors"))
    own = {name.removeprefix("layers.0."): w for name, w in weights.items() if name.startswith("layers.0.")}
    assert own.keys() == dict(tree_flatten(layer.parameters())).keys()
    layer.load_weights(list(own.items()))

    def call(embedded, features):
        x = mx.concatenate([layer.input_layernorm(embedded), layer.hidden_norm(features)], axis=-1)
        h = features + layer.post_attention_layernorm(layer.self_attn(x, mask="causal")[0])
        h = h + layer.post_feedforward_layernorm(layer.mlp(layer.pre_feedforward_layernorm(h)))
        return h * layer.layer_scalar

    return call
