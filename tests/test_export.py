"""Exported folders are whole, in the published formats, and load as the same pair."""

import json

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from mlx_lm.utils import load, load_model

import dspark_lab as lab
from dspark_lab.export import export_pair, whole

PROMPT = list(b"def encode(self")
DRAFTERS = ("dspark", "dflash", "dflash16", "eagle3")


@pytest.fixture(scope="module")
def pair(lab_folder):
    return lab.load_pair(lab_folder)


@pytest.fixture(scope="module")
def exported(pair, tmp_path_factory):
    return export_pair(pair, tmp_path_factory.mktemp("export") / "new")


def test_folders(exported):
    assert {folder.name for folder in exported.iterdir()} == {"target", *DRAFTERS}
    for folder in exported.iterdir():
        weights, config = mx.load(str(folder / "model.safetensors")), json.loads((folder / "config.json").read_text())
        assert {tensor.dtype for tensor in weights.values()} == {mx.float32}
        assert not any(name.endswith(("scales", "biases", "lora_a", "lora_b")) for name in weights)
        assert config["dtype"] == "float32" and not config.keys() & {"quantization", "quantization_config"}


def test_embedding_and_head_are_the_targets(exported):
    """DeepSpec's formats carry copies of them, z-lab's borrows them."""
    embedding = mx.load(str(exported / "target" / "model.safetensors"))[
        "model.embed_tokens.weight"
    ]  # and head: it is tied
    for mode in DRAFTERS:
        weights = mx.load(str(exported / mode / "model.safetensors"))
        copies = {name: weights[name] for name in ("embed_tokens.weight", "lm_head.weight") if name in weights}
        assert len(copies) == (0 if mode == "dflash16" else 2)
        assert all(mx.array_equal(copy, embedding) for copy in copies.values())


def test_tensors_are_those_of_the_published_formats(exported, golden_folder):
    """Name for name and shape for shape those that DeepSpec's and z-lab's code saved."""
    names = {"target": "target", "dspark": "dspark_vanilla", "dflash": "dflash_block7", "dflash16": "zlab_dflash_b16"}
    for folder, name in {**names, "eagle3": "eagle3"}.items():
        ours, theirs = (mx.load(str(at / "model.safetensors")) for at in (exported / folder, golden_folder / name))
        assert {name: tensor.shape for name, tensor in ours.items()} == {name: t.shape for name, t in theirs.items()}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_same_tokens(pair, exported, temperature):
    again = lab.load_pair(exported / "target", drafter=[exported / mode for mode in DRAFTERS])
    assert again.modes == pair.modes
    options = {"max_tokens": 40, "temperature": temperature, "seed": 3}
    for mode in pair.modes:
        ours, theirs = (lab.generate(p, PROMPT, mode, **options) for p in (pair, again))
        assert theirs.tokens == ours.tokens and theirs.text == ours.text
        assert [r.drafted for r in theirs.rounds] == [r.drafted for r in ours.rounds]


def test_mlx_lm_loads_the_target(pair, exported):
    model, tokenizer = load(str(exported / "target"))
    ours = pair.target.forward(PROMPT, pair.target.new_cache())[0]
    assert mx.array_equal(model(mx.array([PROMPT]))[0], ours)
    assert tokenizer.encode("def f(x)") == pair.tokenizer.encode("def f(x)")


def test_whole_checkpoints_export_too(golden, tmp_path):
    """A pair that was not quantized, whose drafters have embeddings of their own, keeps them."""
    out = export_pair(golden, tmp_path)
    for mode, folder in golden.folders.items():
        theirs, ours = (mx.load(str(at / "model.safetensors")) for at in (folder, out / mode))
        assert theirs.keys() == ours.keys()
        assert all(mx.array_equal(tensor, ours[name]) for name, tensor in theirs.items())


def test_quantized_target_is_dequantized(pair, lab_folder):
    """On a GPU a target stays quantized when it is loaded; what is exported does not."""
    model, _ = load_model(lab_folder / "base")
    theirs = lab.load_pair(lab_folder / "base").target.model
    for name, tensor in tree_flatten(theirs.parameters()):
        assert mx.max(mx.abs(whole(model)[name] - tensor)).item() < 1e-6


def test_nothing_is_overwritten(pair, lab_folder, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    for out in (lab_folder, tmp_path, file):
        with pytest.raises(ValueError, match="exists already and is not an empty folder; give a new one"):
            export_pair(pair, out)
