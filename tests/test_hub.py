"""Published checkpoints: from a name to a pair, by huggingface-hub's own client from a Hub on this machine."""

import json
import shutil

import mlx.core as mx
import mlx.nn as nn
import pytest
from fake_hub import REVISION, FakeHub
from huggingface_hub import constants
from mlx.utils import tree_flatten
from mlx_lm.utils import load_model, save_config, save_model

import dspark_lab as lab
from dspark_lab import hub, memory, pair, registry
from dspark_lab.train import folders

TARGET = "mlx-community/Qwen3-4B-8bit"
DRAFTERS = {"deepseek-ai/dspark_qwen3_4b_block7": "dspark_vanilla", "z-lab/Qwen3-4B-DFlash-b16": "zlab_dflash_b16"}
PROMPT = list(b"def encode(self, input):")


@pytest.fixture(scope="module")
def repositories(golden_folder, tmp_path_factory):
    """Tiny checkpoints under published names: an 8-bit sharded target, drafters in bfloat16 with code beside them."""
    root = tmp_path_factory.mktemp("repositories")
    model, config = load_model(golden_folder / "target")
    quantization = {"group_size": 64, "bits": 8}
    model.set_dtype(mx.bfloat16)
    nn.quantize(model, **quantization)
    (root / "target").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folders, "SHARD_BYTES", 150_000)
        folders.save_sharded(root / "target", dict(tree_flatten(model.parameters())))
    save_config({**config, "quantization": quantization}, root / "target" / "config.json")
    for file in (golden_folder / "target").glob("tokenizer*"):
        shutil.copy(file, root / "target")
    (root / "target" / "chat_template.jinja").write_text("{{ messages[0].content }}")
    for name in DRAFTERS.values():
        save_bfloat16(golden_folder / name, root / name)
        (root / name / "modeling_dspark.py").write_text("raise SystemExit('code from a checkpoint was run')")
        (root / name / "pytorch_model.bin").write_bytes(b"a pickle")
        (root / name / "original").mkdir()
        (root / name / "original" / "model.safetensors").write_bytes(b"another format")
    return {TARGET: root / "target", **{name: root / folder for name, folder in DRAFTERS.items()}}


def save_bfloat16(source, folder):
    """The drafter in ``source`` as it would be published."""
    weights = {name: tensor.astype(mx.bfloat16) for name, tensor in mx.load(str(source / "model.safetensors")).items()}
    folder.mkdir()
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    config = json.loads((source / "config.json").read_text())
    auto_map = {"AutoModel": "modeling_dspark.DSpark"}
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16", "auto_map": auto_map}))


@pytest.fixture
def server(repositories, monkeypatch, tmp_path):
    """A FakeHub that huggingface-hub asks, with an empty cache."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with FakeHub() as fake:
        fake.repositories = dict(repositories)
        monkeypatch.setattr(constants, "ENDPOINT", fake.url)
        template = fake.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield fake


def snapshot(repository):
    """The names of the files of ``repository`` in the cache."""
    root = hub.Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}" / "snapshots" / REVISION
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("Qwen/Qwen3-4B", "Qwen3-4B"),
        ("mlx-community/Qwen3-4B-8bit", "Qwen3-4B"),
        ("mlx-community/Qwen3-4B-4bit-DWQ-053125", "Qwen3-4B"),
        ("Qwen/Qwen3-4B-MLX-bf16", "Qwen3-4B"),
        ("somebody/qwen3-8b-mixed-3-6bit", "Qwen3-8B"),
        ("lmstudio-community/Qwen3-14B-MLX-4bit", "Qwen3-14B"),
        ("/models/Qwen3-14B-mxfp4/", "Qwen3-14B"),
        ("google/gemma-4-12B-it", "Gemma-4 12B"),
        ("mlx-community/gemma-4-12b-it-OptiQ-4bit", "Gemma-4 12B"),
        ("somebody/gemma4-12B-it-qat-8bit", "Gemma-4 12B"),
        ("mlx-community/Qwen3.5-4B-MLX-8bit", "Qwen3.5-4B"),
        ("Qwen/Qwen3.5-9B-FP8", "Qwen3.5-9B"),
        ("mlx-community/Qwen3.5-27B-4bit", "Qwen3.5-27B"),
        ("mlx-community/Qwen3.5-35B-A3B-4bit", "Qwen3.5-35B-A3B"),
        ("Qwen/Qwen3-4B-Base", None),
        ("mlx-community/Qwen3-4B-Instruct-2507-8bit", None),
        ("mlx-community/Qwen3-0.6B-8bit", None),
        ("mlx-community/gemma-4-12B-8bit", None),
        ("mlx-community/Qwen3.5-4B-Base-8bit", None),
        ("lab", None),
    ],
)
def test_names(name, known):
    """Whatever the owner and the quantisation; but base models and later versions are other models."""
    found = registry.find(name)
    assert (found and found.name) == known


def test_registry_is_whole():
    """Every target has drafters of known modes, the best first, and a converted name that finds it again."""
    names = [name for known in registry.PUBLISHED for name in known.drafters.values()]
    assert len(names) == len(set(names)) == 4 * 3 + 7
    assert all(registry.find(known.converted) is known is registry.find(known.original) for known in registry.PUBLISHED)
    assert {mode for known in registry.PUBLISHED for mode in known.drafters} <= {kind.mode for kind in drafter_kinds()}
    assert all(known.figures for known in registry.PUBLISHED)


def drafter_kinds():
    from dspark_lab.drafters import DRAFTERS

    return DRAFTERS


def test_a_name_is_enough(server, repositories, capsys):
    """The best drafter comes with the target, in 4 bits, and no file comes that is not json, weights or template."""
    loaded = lab.load_pair(TARGET)
    assert loaded.modes == ("baseline", "lookup", "dspark") and loaded.name == TARGET
    assert "to download" in capsys.readouterr().err
    drafter = "deepseek-ai/dspark_qwen3_4b_block7"
    shards = {file.name for file in repositories[TARGET].glob("model-*.safetensors")}
    assert len(shards) > 2
    assert snapshot(TARGET) == shards | {"config.json", "model.safetensors.index.json", "tokenizer.json",
                                         "tokenizer_config.json", "chat_template.jinja"}  # fmt: skip
    assert snapshot(drafter) == {"config.json", "model.safetensors"}
    assert not any(name.endswith((".py", ".bin")) for name in server.fetched())
    asked = [headers for _, path, headers in map(lower, server.requests) if TARGET in path or drafter in path]
    assert len(asked) > 10 and all(headers.get("authorization") == "Bearer hf_secret" for headers in asked)
    assert loaded.tokenizer.has_chat_template
    by_hand = lab.load_pair(repositories[TARGET], repositories[drafter], drafter_bits=4)
    expected, got = (lab.generate(each, PROMPT, "dspark", max_tokens=40) for each in (by_hand, loaded))
    assert [r.to_dict()["drafted"] for r in got.rounds] == [r.to_dict()["drafted"] for r in expected.rounds]
    assert got.tokens == expected.tokens == lab.generate(loaded, PROMPT, "baseline", max_tokens=40).tokens


def lower(request):
    method, path, headers = request
    return method, path, {name.lower(): value for name, value in headers.items()}


def test_offline_afterwards(server, monkeypatch):
    """What was fetched once is found without the Hub, by switch or for want of it; what was not is told apart."""
    lab.load_pair(TARGET, mode="dflash16")
    before = len(server.requests)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert lab.load_pair(TARGET, mode="dflash16").modes == ("baseline", "lookup", "dflash16")
    assert len(server.requests) == before
    with pytest.raises(FileNotFoundError, match=r"dspark_qwen3_4b_block7 is not whole .* HF_HUB_OFFLINE"):
        lab.load_pair(TARGET)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    server.server.shutdown()
    server.server.server_close()
    assert lab.load_pair(TARGET, mode=["dflash16", "lookup"]).modes == ("baseline", "lookup", "dflash16")
    with pytest.raises(FileNotFoundError, match=r"cannot be fetched \(ConnectError"):
        lab.load_pair(TARGET)


def test_what_is_in_the_cache(server):
    """Asked without the Hub: nothing at first, nothing while only a config.json is there, then the whole."""
    drafter = "z-lab/Qwen3-4B-DFlash-b16"
    assert hub.in_cache(drafter) is None and not server.requests
    found = hub.look_up(drafter)
    before = len(server.requests)
    assert hub.in_cache(drafter) is None
    assert len(server.requests) == before
    folder = found.fetch()
    assert hub.in_cache(drafter).folder == folder and hub.in_cache(drafter).missing == 0


def test_an_interrupted_download_goes_on(server, repositories, monkeypatch):
    """The second request asks for the rest alone, and the file is whole."""
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)  # what is written at once
    drafter = "z-lab/Qwen3-4B-DFlash-b16"
    server.cut = {"model.safetensors"}
    folder = hub.look_up(drafter).fetch()
    whole = (repositories[drafter] / "model.safetensors").read_bytes()
    assert (folder / "model.safetensors").read_bytes() == whole
    ranges = [headers.get("range") for method, path, headers in map(lower, server.requests)
              if method == "GET" and path.endswith("model.safetensors")]  # fmt: skip
    assert ranges[0] is None and int(ranges[1].removeprefix("bytes=").rstrip("-")) > 0


def test_refusals(server, repositories, tmp_path):
    with pytest.raises(FileNotFoundError, match="nobody/nothing is neither a folder here nor a public repository"):
        lab.load_pair("nobody/nothing")
    server.repositories["google/gemma-4-12B-it"] = repositories[TARGET]
    server.gated = {"google/gemma-4-12B-it"}
    with pytest.raises(FileNotFoundError, match=r"asks you to accept its terms: .* `hf auth login`"):
        lab.load_pair("google/gemma-4-12B-it")
    with pytest.raises(ValueError, match=r"mode 'medusa' is not in the pair .*; it has baseline, lookup, dspark"):
        lab.load_pair(TARGET, mode="medusa")
    (tmp_path / "gguf").mkdir()
    (tmp_path / "gguf" / "config.json").write_text("{}")
    server.repositories["somebody/Qwen3-4B-GGUF"] = tmp_path / "gguf"
    with pytest.raises(ValueError, match=r"has no config.json with model.*safetensors; other formats are not read"):
        lab.load_pair("somebody/Qwen3-4B-GGUF")
    assert not any(name.endswith(".safetensors") for name in server.fetched())


def test_an_unknown_target(server, repositories, tmp_path):
    """It is told which drafters fit its shape and how to name one; without one it still decodes."""
    server.repositories["somebody/Mine-8bit"] = repositories[TARGET]
    with pytest.raises(ValueError, match=r"no drafter is known for somebody/Mine-8bit, and none fits .*--drafter"):
        lab.load_pair("somebody/Mine-8bit")
    assert lab.load_pair("somebody/Mine-8bit", mode="lookup").modes == ("baseline", "lookup")
    named = lab.load_pair("somebody/Mine-8bit", drafter="z-lab/Qwen3-4B-DFlash-b16")
    assert named.default_mode == "dflash16"
    shutil.copytree(repositories[TARGET], tmp_path / "tuned")
    config = json.loads((tmp_path / "tuned" / "config.json").read_text())
    config |= {"hidden_size": 2560, "num_hidden_layers": 36, "vocab_size": 151936}
    (tmp_path / "tuned" / "config.json").write_text(json.dumps(config))
    server.repositories["somebody/Qwen3-4B-Base"] = tmp_path / "tuned"
    with pytest.raises(ValueError, match=r"these fit its shape .*dspark_qwen3_4b_block7 \(made for Qwen3-4B\)"):
        lab.load_pair("somebody/Qwen3-4B-Base")


def test_a_folder_finds_its_drafter_when_asked(server, repositories, tmp_path):
    """A folder is never completed from the Hub by itself; with a mode, its name is looked up."""
    shutil.copytree(repositories[TARGET], tmp_path / "Qwen3-4B-8bit")
    assert lab.load_pair(tmp_path / "Qwen3-4B-8bit").modes == ("baseline", "lookup")
    assert server.requests == []
    assert lab.load_pair(tmp_path / "Qwen3-4B-8bit", mode="dspark").default_mode == "dspark"


def test_too_little_memory(server, monkeypatch, capsys):
    """Refused with the figures before a weight is fetched, unless forced."""
    monkeypatch.setattr(memory, "available", lambda: (1000, "free here are"))
    with pytest.raises(memory.NotEnoughMemory, match=r"needs about \d+\.\d GB of memory \(target .* free here are 0.0"):
        lab.load_pair(TARGET)
    assert server.fetched() == {"config.json"}
    assert f"{TARGET}: 0.0 GB to download, about 0.0 GB of memory" in capsys.readouterr().err
    assert lab.load_pair(TARGET, force=True).default_mode == "dspark"


def test_drafters_without_a_published_target(lab_folder):
    """``mode`` takes one of those that lie in a folder; unknown ones are refused."""
    assert lab.load_pair(lab_folder, mode="dflash").modes == ("baseline", "lookup", "dflash")
    assert lab.load_pair(lab_folder, mode="baseline").modes == ("baseline", "lookup")
    with pytest.raises(ValueError, match="mode 'medusa' is not in the pair"):
        lab.load_pair(lab_folder, mode="medusa")
    with pytest.raises(ValueError, match="mode 'eagle3' is not in the pair"):
        lab.load_pair(lab_folder, drafter=lab_folder / "dflash", mode="eagle3")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"drafter_bits": 7}, "drafter_bits is 7; give 2, 3, 4, 5, 6 or 8"),
        ({"unquantized": ["body"]}, "no part 'body' to leave unquantized; give some of fc, heads"),
        ({"dtype": "int8"}, "dtype is 'int8'; give one of float32, float16, bfloat16"),
    ],
)
def test_bad_options(options, words):
    with pytest.raises(ValueError, match=words):
        lab.load_pair(**options)


def test_a_missing_shard_is_named(repositories, tmp_path):
    folder = tmp_path / "target"
    shutil.copytree(repositories[TARGET], folder)
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=f"lacks {shard.name}, which its index names; download it again"):
        lab.load_pair(folder)


def test_code_is_never_trusted(repositories, tmp_path):
    """A config that names a model file of its own is refused, not obeyed."""
    folder = tmp_path / "target"
    shutil.copytree(repositories[TARGET], folder)
    (folder / "own.py").write_text("raise SystemExit('code from a checkpoint was run')")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_file": "own.py"}))
    with pytest.raises(ValueError, match=r"brings code of its own \(own\.py\), and none is run here"):
        lab.load_pair(folder)


def test_saved_whole(golden_folder, tmp_path):
    """A target in one file with mlx-lm's own index is whole."""
    model, config = load_model(golden_folder / "target")
    save_model(tmp_path / "target", model)
    save_config(config, tmp_path / "target" / "config.json")
    assert lab.load_pair(tmp_path / "target").modes == ("baseline", "lookup")


def test_options_reach_the_lab_pair(monkeypatch):
    """Quantized to 4 bits, a drafter of the lab pair is another; its target is not."""
    stored, quantized = lab.load_pair(mode="dflash"), lab.load_pair(mode="dflash", drafter_bits=4)
    a, b = (each.drafters["dflash"].fc.weight for each in (stored, quantized))
    assert a.shape == b.shape and 0 < mx.max(mx.abs(a - b)).item() < mx.max(mx.abs(a)).item()
    assert pair.HUB_DRAFTER_BITS == 4
