"""Loading pairs: the lab pair's layout, versions and adapters, and what the parts are once they are loaded."""

import json
import shutil
import subprocess
import sys

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import load_adapters
from mlx_lm.utils import load_model

import dspark_lab as lab
from dspark_lab import pair as pair_module
from dspark_lab.checkpoint import dequantize

PROMPT = list(b"def encode(self")
MODES = ("baseline", "lookup", "dspark", "dflash", "dflash16", "eagle3")


@pytest.fixture(scope="module")
def instruct(lab_folder):
    return lab.load_pair(lab_folder)


def logits(target):
    return target.forward(PROMPT, target.new_cache())[0]


def largest(array):
    return mx.max(mx.abs(array)).item()


def test_import_is_light():
    """The command line's --help does not pay for mlx-lm, most of a second; a program does, at its import."""
    for name, heavy in (("dspark-lab", False), ("lesson.py", True)):
        program = f"import sys; sys.argv[0] = {name!r}; import dspark_lab; print(*(m in sys.modules for m in MODULES))"
        program = f"MODULES = ('mlx.core', 'mlx_lm'); {program}"
        command = [sys.executable, "-W", "error", "-c", program]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == f"True {heavy}\n"


def test_layout(instruct, lab_folder):
    assert instruct.modes == MODES
    assert (instruct.name, instruct.default_mode) == (lab_folder.name, "dspark")
    assert instruct.folders["target"] == lab_folder / "base"
    assert instruct.stop_tokens == {0} and instruct.tokenizer.decode(PROMPT) == "def encode(self"


def test_everything_runs_in_float32_on_a_cpu(instruct):
    """No adapter and no quantized layer is left; only float32 goes through BLAS."""
    if mx.default_device() != mx.cpu:
        pytest.skip("half precision stays on a GPU")
    for module in (instruct.target.model, *(instruct.drafters[mode] for mode in MODES[2:])):
        assert {tensor.dtype for _, tensor in tree_flatten(module.parameters())} == {mx.float32}
        assert not any(hasattr(part, "fuse") or isinstance(part, nn.QuantizedLinear) for part in module.modules())


def test_adapters_are_folded_in(instruct, lab_folder):
    """The same logits as mlx-lm's own adapter layers on the 8-bit base, and others than the base's."""
    model, _ = load_model(lab_folder / "base")
    base = logits(lab.load_pair(lab_folder / "base").target)
    assert largest(base - model(mx.array([PROMPT]))[0]) < 1e-3
    load_adapters(model, str(lab_folder / "instruct"))
    assert largest(logits(instruct.target) - model(mx.array([PROMPT]))[0]) < 1e-3
    assert largest(logits(instruct.target) - base) > 0.1


def test_names_of_the_lab_pair(lab_folder, monkeypatch, instruct):
    monkeypatch.setattr(pair_module, "WEIGHTS", lab_folder)
    shipped, base = lab.load_pair(), lab.load_pair("lab-base")
    assert (shipped.name, base.name) == ("lab", "lab-base")
    assert shipped.modes == base.modes == MODES
    assert largest(logits(shipped.target) - logits(instruct.target)) == 0
    assert largest(logits(base.target) - logits(lab.load_pair(lab_folder / "base").target)) == 0


def test_drafters_given_replace_those_of_the_lab_pair(lab_folder):
    pair = lab.load_pair(lab_folder, drafter=lab_folder / "dflash")
    assert pair.modes == ("baseline", "lookup", "dflash") and pair.default_mode == "dflash"
    assert lab.load_pair(lab_folder / "base").modes == ("baseline", "lookup")


def test_stop_tokens_without_a_tokenizer(golden_folder, tmp_path):
    shutil.copytree(golden_folder / "target", tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*"))
    pair = lab.load_pair(str(tmp_path / "bare"))
    assert pair.tokenizer is None and pair.stop_tokens == {0}
    config = json.loads((tmp_path / "bare" / "config.json").read_text())
    (tmp_path / "bare" / "config.json").write_text(json.dumps({**config, "eos_token_id": [3, 4]}))
    assert lab.load_pair(tmp_path / "bare").stop_tokens == {3, 4}


def test_unfinished_lab(lab_folder, tmp_path):
    shutil.copytree(lab_folder / "base", tmp_path / "base")
    with pytest.raises(FileNotFoundError, match="has base/ but no instruct/; let `dspark-lab train lab"):
        lab.load_pair(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda weights, name: weights.pop(name), "lack {name}"),
        (
            lambda weights, name: weights.update({name: mx.ones((3, 3))}),
            r"{name}: adapter shape \(3, 3\) does not match",
        ),
        (lambda weights, name: weights.update({name: mx.full((64, 4), float("nan"))}), "{name} hold NaN"),
        (lambda weights, name: weights.update(surplus=mx.ones((1,))), "surplus: not an adapter parameter"),
    ],
)
def test_damaged_adapters(lab_folder, tmp_path, change, words):
    shutil.copytree(lab_folder, tmp_path / "lab")
    path, name = tmp_path / "lab" / "instruct" / "adapters.safetensors", "model.layers.0.self_attn.q_proj.lora_a"
    weights = mx.load(str(path))
    mx.eval(weights)
    change(weights, name)
    mx.save_safetensors(str(path), weights)
    with pytest.raises(ValueError, match=words.format(name=name)) as error:
        lab.load_pair(tmp_path / "lab")
    assert str(tmp_path / "lab" / "instruct") in str(error.value)


def test_dequantize():
    """Matrices come back to within a step, by their layer's own bits; biases and plain tensors are untouched."""
    matrix, small = mx.random.normal((2, 8, 64), key=mx.random.key(0))
    weights = {"a.bias": mx.ones((8,)), "c.weight": matrix}
    for stem, tensor, bits in (("a", matrix, 8), ("b", small, 4)):
        weights |= zip((f"{stem}.weight", f"{stem}.scales", f"{stem}.biases"), mx.quantize(tensor, 32, bits))
    plain = dequantize(weights, {"group_size": 32, "bits": 8, "b": {"group_size": 32, "bits": 4}})
    assert plain.keys() == {"a.weight", "a.bias", "b.weight", "c.weight"}
    assert plain["a.bias"] is weights["a.bias"] and plain["c.weight"] is matrix
    assert largest(plain["a.weight"] - matrix) <= largest(weights["a.scales"])
    assert largest(plain["b.weight"] - small) <= largest(weights["b.scales"])
    with pytest.raises(ValueError, match="quantized in mode 'mxfp4'"):
        dequantize(weights, {"group_size": 32, "bits": 4, "mode": "mxfp4"})
