"""Drafters quantized when they are loaded, the formats that checkpoints come in, and what memory is reckoned."""

import json
import shutil

import mlx.core as mx
import mlx.nn as nn
import pytest
import tiny
from mlx.utils import tree_flatten

import dspark_lab as lab
from dspark_lab import hub, memory
from dspark_lab.bench.acceptance import overlaps, target_texts
from dspark_lab.checkpoint import quantize
from dspark_lab.drafters import load as loading
from dspark_lab.drafters.load import load_drafter
from dspark_lab.export import export_pair, whole
from dspark_lab.sampling import Sampling

PROMPT = list(b"def encode(self, input):")
KINDS = ["dspark_vanilla", "dspark_gated", "dspark_rnn", "dflash_block7", "zlab_dflash_b16", "eagle3"]


@pytest.fixture
def like_a_gpu(monkeypatch):
    """Quantized matrices stay so, as on Metal and CUDA; a CPU can multiply them too, only slowly."""
    monkeypatch.setattr(loading, "stays_quantized", lambda dtype: True)


def tensors(module):
    return dict(tree_flatten(module.parameters()))


def drafts(pair, drafter, n=4):
    """What ``drafter`` proposes along a greedy text of the target: (tokens, q) of ``n`` rounds of two tokens."""
    pair = lab.Pair(pair.target, {drafter.mode: drafter})
    rounds = lab.generate(pair, PROMPT, drafter.mode, max_tokens=3 * n, keep_probs=True).rounds
    return [(r.drafted, r.q) for r in rounds]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [3, 4, 8])
def test_dequantized_on_a_cpu(golden, golden_folder, kind, bits):
    """Every matrix whose rows allow it holds quantized-then-dequantized numbers; all else is as it was."""
    stored = tensors(load_drafter(golden_folder / kind, golden.target))
    loaded = tensors(load_drafter(golden_folder / kind, golden.target, bits))
    changed = {name for name in stored if not mx.array_equal(stored[name], loaded[name])}
    for name in changed:
        size = 64 if stored[name].shape[1] % 64 == 0 else 32
        assert mx.array_equal(mx.dequantize(*mx.quantize(stored[name], size, bits), size, bits), loaded[name]), name
    assert {"fc.weight", "layers.0.mlp.down_proj.weight"} <= changed
    assert not any(name.startswith("confidence_head") or stored[name].ndim == 1 for name in changed)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_drafts_quantized_and_dequantized(golden, golden_folder, like_a_gpu, monkeypatch, kind):
    """A GPU's quantized products and a CPU's dequantized ones draft alike, so acceptance can be measured on either."""
    quantized = load_drafter(golden_folder / kind, golden.target, 4)
    assert any(isinstance(layer, nn.QuantizedLinear) for layer in quantized.modules())
    monkeypatch.setattr(loading, "stays_quantized", lambda dtype: False)
    dequantized = load_drafter(golden_folder / kind, golden.target, 4)
    assert not any("scales" in layer for layer in dequantized.modules())
    for ours, theirs in zip(drafts(golden, quantized), drafts(golden, dequantized), strict=True):
        assert ours[0] == theirs[0] and mx.allclose(ours[1], theirs[1], atol=1e-4)


@pytest.mark.parametrize("metal", [False, True])
def test_which_gpu_keeps_matrices_quantized(monkeypatch, metal):
    """Metal any, CUDA none beside float32 numbers, whose products it cannot launch; a CPU none at all."""
    assert not loading.stays_quantized(mx.bfloat16)
    monkeypatch.setattr(mx, "default_device", lambda: mx.gpu)
    monkeypatch.setattr(mx.metal, "is_available", lambda: metal)
    assert loading.stays_quantized(mx.bfloat16) and loading.stays_quantized(mx.float32) == metal


def test_on_a_gpu_a_drafter_is_of_its_targets_type(golden, golden_folder, monkeypatch):
    """Whoever loads it, and so one of a float32 target is not kept quantized on CUDA."""
    asked = []
    monkeypatch.setattr(mx, "default_device", lambda: mx.gpu)
    monkeypatch.setattr(loading, "stays_quantized", lambda dtype: asked.append(dtype))
    load_drafter(golden_folder / "dspark_vanilla", golden.target, 4)
    assert asked == [mx.float32]


def test_quantized_tables_are_looked_up(golden, golden_folder, like_a_gpu):
    """W1 of rank 64, quantized: looked up by one id, as drawing does, and by many."""
    drafter = load_drafter(golden_folder / "dspark_vanilla", golden.target)
    head = drafter.markov_head
    head.markov_w1 = nn.QuantizedEmbedding.from_embedding(nn.Embedding(128, 64), 64, 4)
    ids = mx.array([[3, 4], [5, 6]])
    assert head.embed(ids).shape == (2, 2, 64)
    assert mx.array_equal(head.embed(mx.array(4)), head.embed(ids)[0, 1])


@pytest.mark.parametrize(("parts", "left"), [((), 0), (("fc",), 1), (("heads",), 2), (("fc", "heads"), 3)])
def test_parts_left_unquantized(golden_folder, parts, left):
    """``fc`` and the heads are taken or left; groups are of 64, of 32 where rows want it; narrower rows stay whole."""
    weights = mx.load(str(golden_folder / "dspark_vanilla" / "model.safetensors"))
    weights |= {"fc.weight": mx.ones((64, 96)), "markov_head.markov_w1.weight": mx.ones((128, 16))}
    names = {"fc": 32, "embed_tokens": 64, "lm_head": 64}
    settings = quantize(weights, 4, parts)
    found = {name: settings[name]["group_size"] for name in names if name in settings}
    assert len(found) == 3 - left and found.items() <= names.items()
    assert "markov_head.markov_w1" not in settings and "confidence_head.proj" not in settings
    assert settings["layers.0.self_attn.q_proj"] == {"group_size": 64, "bits": 4}
    assert all((f"{name}.scales" in weights) == (name in found) for name in names)


def test_a_nan_is_found_before_it_is_packed(golden, golden_folder, tmp_path):
    shutil.copytree(golden_folder / "dflash_block7", tmp_path / "bad")
    weights = {name: mx.array(t) for name, t in mx.load(str(tmp_path / "bad" / "model.safetensors")).items()}
    mx.eval(weights)
    weights["fc.weight"][3, 5] = float("nan")
    mx.save_safetensors(str(tmp_path / "bad" / "model.safetensors"), weights)
    with pytest.raises(ValueError, match=r"bad cannot be used: fc.weight hold NaN"):
        load_drafter(tmp_path / "bad", golden.target, 4)


def test_stored_and_asked_bits(lab_folder, like_a_gpu):
    """An 8-bit drafter stays one where it may; asked for 4, it becomes one of 4; its export is whole either way."""
    pair = lab.load_pair(lab_folder, drafter=lab_folder / "dflash")
    assert {layer.bits for layer in pair.drafters["dflash"].modules() if "scales" in layer} == {8}
    pair = lab.load_pair(lab_folder, drafter=lab_folder / "dflash", drafter_bits=4)
    assert {layer.bits for layer in pair.drafters["dflash"].modules() if "scales" in layer} == {4}
    assert not any(name.endswith("scales") for name in whole(pair.drafters["dflash"]))


def test_a_quantized_pair_can_be_exported(lab_folder, like_a_gpu, tmp_path):
    pair = lab.load_pair(lab_folder, mode="dspark", drafter_bits=4)
    out = export_pair(pair, tmp_path / "out")
    again = lab.load_pair(out / "target", out / "dspark")
    expected, got = (lab.generate(each, PROMPT, max_tokens=30) for each in (pair, again))
    assert (got.tokens, [r.drafted for r in got.rounds]) == (expected.tokens, [r.drafted for r in expected.rounds])


def test_dtype(golden_folder):
    """What is not quantized is cast, target and drafter alike."""
    pair = lab.load_pair(golden_folder / "target", golden_folder / "dspark_vanilla", dtype="bfloat16")
    for module in (pair.target.model, pair.drafters["dspark"]):
        assert {tensor.dtype for tensor in tensors(module).values()} == {mx.bfloat16}
    assert len(lab.generate(pair, PROMPT, max_tokens=8).tokens) == 8


def test_greedy_text_does_not_depend_on_the_drafters_bits(golden, golden_folder):
    expected = lab.generate(golden, PROMPT, "baseline", max_tokens=60).tokens
    for bits in (2, 4):
        pair = lab.load_pair(golden_folder / "target", golden_folder / "dspark_vanilla", drafter_bits=bits)
        assert lab.generate(pair, PROMPT, max_tokens=60).tokens == expected


def test_acceptance_of_the_lab_pair_by_bits(capsys):
    """Teacher-forced acceptance of its drafter as stored and in 4 bits, side by side: the price of 4 bits is small."""
    stored, quantized = (lab.load_pair(mode="dspark", drafter_bits=bits) for bits in (0, 4))
    prompts = [stored.tokenizer.apply_chat_template([{"role": "user", "content": words}], add_generation_prompt=True)
               for words in ("Write the Python function `read_lines(path)`.", "Tom has 3 pens and buys 4. How many?",
                             "Tell me about the sea.", "Continue: It was a dark night and")]  # fmt: skip
    texts = target_texts(stored, prompts, 64)
    rates = [
        overlaps(pair.target, pair.drafters["dspark"], texts)["overlap"]["estimate"] for pair in (stored, quantized)
    ]
    with capsys.disabled():
        for name, row in zip(("as stored (8 bits)", "4 bits"), rates):
            print(f"\nacceptance by position, {name}: {' '.join(f'{rate:.3f}' for rate in row)}", end="")
    means = [sum(row) / len(row) for row in rates]
    assert means[0] != means[1] and means[1] > 0.9 * means[0]


def edited(source, folder, change=lambda weights: weights, **settings):
    """A copy of the checkpoint ``source`` with other tensors and settings (None: taken out)."""
    weights = {name: mx.array(t) for name, t in mx.load(str(source / "model.safetensors")).items()}
    config = json.loads((source / "config.json").read_text()) | settings
    folder.mkdir()
    mx.save_safetensors(str(folder / "model.safetensors"), change(weights))
    config = {name: value for name, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("which", ["target", "dspark_vanilla"])
def test_rope_theta_or_rope_parameters(golden_folder, tmp_path, which):
    """Where RoPE's base stands does not matter; what it is does."""
    source, theta = golden_folder / which, {"rope_theta": 1000000.0}
    variants = [
        edited(source, tmp_path / "old", rope_parameters=None, **theta),
        edited(source, tmp_path / "new", rope_theta=None, rope_parameters={"rope_type": "default", **theta}),
        edited(source, tmp_path / "other", rope_theta=50.0, rope_parameters=None),
    ]
    texts = []
    for folder in variants:
        target, drafter = (folder, None) if which == "target" else (golden_folder / "target", folder)
        pair = lab.load_pair(target, drafter)
        rounds = lab.generate(pair, PROMPT, max_tokens=24, mode="lookup" if drafter is None else "dspark").rounds
        texts.append([(r.drafted, r.committed) for r in rounds])
    assert texts[0] == texts[1] != texts[2]


def test_with_or_without_embedding_and_head(golden, golden_folder, tmp_path):
    """DeepSpec's copies of the target's embedding and head may be left out, both or either."""
    source, expected = golden_folder / "dspark_vanilla", None
    for i, names in enumerate([(), ("embed_tokens",), ("lm_head",), ("embed_tokens", "lm_head")]):
        left_out = {f"{name}.weight" for name in names}
        keep = lambda weights, out=left_out: {n: t for n, t in weights.items() if n not in out}  # noqa: E731
        drafter = load_drafter(edited(source, tmp_path / str(i), keep), golden.target)
        assert left_out.isdisjoint(tensors(drafter))
        found = [tokens for tokens, _ in drafts(golden, drafter)]
        expected = expected or found
        assert found == expected


def test_sharded_drafter(golden, golden_folder, tmp_path):
    """In any number of files, with an index."""
    source, folder = golden_folder / "dspark_vanilla", tmp_path / "sharded"
    weights = mx.load(str(source / "model.safetensors"))
    folder.mkdir()
    shutil.copy(source / "config.json", folder)
    index = {name: f"model-{1 + i % 3:05d}-of-00003.safetensors" for i, name in enumerate(sorted(weights))}
    for file in set(index.values()):
        mx.save_safetensors(str(folder / file), {name: weights[name] for name in index if index[name] == file})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    whole, sharded = (drafts(golden, load_drafter(at, golden.target)) for at in (source, folder))
    assert [tokens for tokens, _ in whole] == [tokens for tokens, _ in sharded]
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks model-00002-of-00003.safetensors, which its index names"):
        load_drafter(folder, golden.target)


def test_confidence_temperatures_are_read(golden, golden_folder, tmp_path):
    """A checkpoint may carry them: logits are divided by them, position by position."""
    temperatures = [0.5, 1.0, 2.0, 1.0, 1.0, 1.0, 4.0]
    folder = edited(golden_folder / "dspark_vanilla", tmp_path / "calibrated", confidence_temperatures=temperatures)
    plain, calibrated = (load_drafter(at, golden.target) for at in (golden_folder / "dspark_vanilla", folder))
    states, tokens = mx.random.normal((7, 64), key=mx.random.key(1)), mx.arange(7)
    p, c = (drafter.confidence(3, tokens, states, Sampling(temperature=1.0)) for drafter in (plain, calibrated))
    assert mx.allclose(mx.log(c / (1 - c)) * mx.array(temperatures), mx.log(p / (1 - p)), atol=1e-3)


@pytest.mark.parametrize(
    "options", [{"drafter_bits": 0}, {"drafter_bits": 4}, {"dtype": "bfloat16", "drafter_bits": 4}]
)
def test_memory_is_what_was_estimated(options, monkeypatch):
    """The lab pair's weights, within a tenth; what it keeps of a context, exactly."""
    needs = []
    monkeypatch.setattr(memory, "check", lambda need, force: needs.append(need))
    pair = lab.load_pair(mode="dspark", **options)
    held = [sum(t.nbytes for t in tensors(part).values()) for part in (pair.target.model, pair.drafters["dspark"])]
    assert needs[0].target == pytest.approx(held[0], rel=0.1)
    assert needs[0].drafters == pytest.approx(held[1], rel=0.1)
    cache = pair.target.new_cache()
    pair.target.forward(list(range(1, 257)), cache)
    used = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache)
    width = 2 if "dtype" in options else 4
    config = hub.look_up(pair.folders["target"]).config
    assert memory.cache_bytes(config, 256, width) == used


def test_memory_on_a_gpu(lab_folder, monkeypatch):
    """As stored, 8 bits and scales; a drafter in 4 bits takes about half of that."""
    monkeypatch.setattr(mx, "default_device", lambda: mx.gpu)
    target, drafter = (hub.look_up(lab_folder / name) for name in ("base", "dflash"))
    need = memory.estimate(target, [(drafter, 0), (drafter, 4)])
    assert need.target == target.size
    assert need.drafters == pytest.approx(drafter.size * (1 + 4.5 / 8.5))


def test_caches_of_the_published_architectures():
    """Gemma-4 keeps a window in most layers and few wide heads in the others; Qwen3.5 keys in every fourth."""
    gemma = {"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 256, "sliding_window": 1024,
             "num_global_key_value_heads": 1, "global_head_dim": 512,
             "layer_types": ["sliding_attention"] * 5 + ["full_attention"]}  # fmt: skip
    assert memory.cache_bytes({"text_config": gemma}, 4096, 2) == 2 * 2 * (5 * 1024 * 8 * 256 + 4096 * 512)
    qwen = {"num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 256,
            "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"]}  # fmt: skip
    assert memory.cache_bytes(qwen, 1000, 2) == 2 * 2 * 1000 * 4 * 256


@pytest.mark.parametrize(("stored", "bits"), [({}, 16), ({"torch_dtype": "float32"}, 32), ({"dtype": "float16"}, 16)])
def test_widths_on_a_gpu(monkeypatch, stored, bits):
    """Unquantized weights take what ``dtype`` says, else what they are stored in, and so does what is kept of a text;
    quantized ones stay as they are, unless adapters are to be folded in, for which they become float32."""
    monkeypatch.setattr(mx, "default_device", lambda: mx.gpu)
    shape = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64}
    plain, packed = (hub.Checkpoint("x", {**shape, **stored, **more}, 1000, 0, None) for more in (
        {}, {"quantization": {"bits": 4, "group_size": 64}}))  # fmt: skip
    kept = 2 * 4096 * 2 * 64
    for dtype, width in ((None, bits // 8), (mx.float32, 4), (mx.bfloat16, 2)):
        need = memory.estimate(plain, [(plain, 0), (plain, 4), (packed, 0)], dtype)
        assert need.target == 1000 * 8 * width / bits
        assert need.drafters == pytest.approx(need.target + 1000 * 4.5 / bits + 1000)
        assert need.caches == 4 * kept * width
        assert memory.estimate(packed, [], dtype).target == 1000
        assert memory.estimate(packed, [], dtype, whole=True).target == 1000 * (8 * width if dtype else 32) / 4.5


def test_speculators_keep_their_shape_in_a_part():
    """A config of Speculators' tells the layers' shape in ``transformer_layer_config`` alone."""
    assert memory.cache_bytes(tiny.SPECULATOR, 100, 2) == 2 * 2 * 100 * 2 * 16  # one layer, two heads of 16
    assert memory.stored_bits({**tiny.SPECULATOR, "torch_dtype": "float32"}) == 32


def test_a_pair_with_a_speculator_loads(tmp_path):
    """From the estimate of its memory to its first draft."""
    target = tiny.write_mlx_lm(tmp_path / "target", tiny.QWEN35)
    tiny.write_drafter(tmp_path / "drafter", lab.load_pair(target).target, tiny.SPECULATOR)
    pair = lab.load_pair(target, tmp_path / "drafter")
    assert any(r.drafted for r in lab.generate(pair, [3, 4, 5], "eagle3", max_tokens=8).rounds)


def test_what_a_config_lacks_is_said_by_loading(golden_folder, tmp_path):
    """The estimate does without it."""
    assert memory.cache_bytes({"hidden_size": 64}, 100, 2) == 0
    keep = lambda weights: weights  # noqa: E731
    folder = edited(golden_folder / "target", tmp_path / "target", keep, num_hidden_layers=None)
    with pytest.raises(ValueError, match=r"mlx-lm cannot load .*num_hidden_layers"):
        lab.load_pair(folder)


def test_a_containers_limit(tmp_path):
    """Files that were read lately are counted as used, but make way."""
    assert memory.container_limit(tmp_path) == float("inf")
    (tmp_path / "memory.max").write_text("2000\n")
    (tmp_path / "memory.current").write_text("500\n")
    assert memory.container_limit(tmp_path) == 1500
    (tmp_path / "memory.stat").write_text("anon 200\ninactive_file 300\nactive_file 100\n")
    assert memory.container_limit(tmp_path) == 1800
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.container_limit(tmp_path) == float("inf")


def test_metals_limit(monkeypatch):
    """The share of a Mac's memory that Metal recommends is what counts there, and what is kept resident."""
    wired = []
    monkeypatch.setattr(mx, "default_device", lambda: mx.gpu)
    monkeypatch.setattr(mx, "device_info", lambda: {"max_recommended_working_set_size": 12e9, "memory_size": 16e9})
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    monkeypatch.setattr(mx, "set_wired_limit", wired.append)
    with pytest.raises(memory.NotEnoughMemory, match=r"about 14.3 GB of memory .*Metal recommends at most 12.0 GB"):
        memory.check(memory.Need(12e9, 1e9, 0, 4096))
    memory.check(memory.Need(9e9, 1e9, 0, 4096))
    memory.keep_resident()
    assert wired == [12e9]
