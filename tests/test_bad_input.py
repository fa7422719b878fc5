"""Bad input ends in a sentence that says what is wrong and what to do, at the call and not half-way."""

import json
import shutil
from types import SimpleNamespace

import mlx.core as mx
import pytest
from fakes import ScriptedDrafter, ScriptedTarget
from mlx_lm.models.cache import KVCache, RotatingKVCache

import dspark_lab as lab
from dspark_lab import pair as pair_module
from dspark_lab.rollback import CannotRollBack

PROMPT = [100, 101, 102]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prompt": ""}, "the prompt is empty; give some text"),
        ({"prompt": []}, "the prompt is empty; give some text"),
        ({"prompt": None}, "the prompt is a NoneType; give text, chat messages or a list of token ids"),
        ({"prompt": [3, 128]}, r"token ids \[128\] are out of range; the target has 0 to 127"),
        ({"prompt": [-1, 3]}, r"token ids \[-1\] are out of range; the target has 0 to 127"),
        ({"prompt": [1] * 512}, "512 tokens, which leaves no room in the target's context of 512; give at most 511"),
        ({"prompt": [1] * 600}, "600 tokens, which leaves no room in the target's context of 512"),
        ({"prompt": ["a", 1]}, 'token ids, or messages like {"role": "user"'),
        ({"prompt": [{"role": "user"}]}, 'token ids, or messages like {"role": "user"'),
        ({"prompt": [{"role": "user", "content": "Hi"}]}, "no chat template; give the prompt as text"),
        (
            {"mode": "medusa"},
            "mode 'medusa' is not in the pair target; it has baseline, lookup, dspark, dflash, dflash16",
        ),
        ({"temperature": -0.1}, r"temperature is -0.1; give 0 \(greedy\) or a finite positive number"),
        ({"temperature": float("nan")}, "temperature is nan; give 0"),
        ({"top_p": 0}, "top_p is 0; give a number above 0 and at most 1"),
        ({"top_p": 1.1}, "top_p is 1.1; give a number above 0 and at most 1"),
        ({"top_k": -1}, "top_k is -1; give 0"),
        ({"top_k": 0.5}, "top_k is 0.5; give 0"),
        ({"max_tokens": 0}, "max_tokens is 0; give a whole number of at least 1"),
        ({"max_tokens": 2.5}, "max_tokens is 2.5; give a whole number of at least 1"),
        ({"max_draft": 8}, r"max_draft is 8; give a whole number from 0 to 7 \(mode dspark's whole block\)"),
        ({"max_draft": 16, "mode": "dflash16"}, r"from 0 to 15 \(mode dflash16's whole block\)"),
        ({"max_draft": 1, "mode": "baseline"}, r"from 0 to 0 \(mode baseline's whole block\)"),
        ({"max_draft": -1}, "max_draft is -1; give a whole number from 0 to 7"),
        ({"max_draft": "fast"}, "max_draft is 'fast'; give a whole number from 0 to 7 .*, or \"auto\""),
        ({"max_draft": "auto", "confidence_threshold": 0.5}, "reads the confidence itself; leave confidence_threshold"),
        ({"confidence_threshold": 1.5}, "confidence_threshold is 1.5; give a probability, from 0"),
        (
            {"confidence_threshold": 0.5, "mode": "dflash"},
            "mode dflash has no confidence head, so confidence_threshold",
        ),
        (
            {"confidence_threshold": 0.5, "mode": "lookup"},
            "mode lookup has no confidence head, so confidence_threshold",
        ),
        ({"seed": -1}, "seed is -1; give a whole number from 0"),
        ({"stop": ""}, "give strings of at least one character"),
        ({"stop": ["a", 3]}, "give strings of at least one character"),
    ],
)
def test_generation(golden, options, words):
    """``stream`` complains when it is called, before anybody asks it for a Round; ``generate`` says the same."""
    arguments = {"prompt": PROMPT, **options}
    for call in (lab.stream, lab.generate):
        with pytest.raises(ValueError, match=words):
            call(golden, **arguments)


def test_text_without_a_tokenizer():
    pair = lab.Pair(ScriptedTarget([0] * 9), {}, name="bare")
    for prompt in ("Hi", [{"role": "user", "content": "Hi"}]):
        with pytest.raises(ValueError, match="the pair bare has no tokenizer; give the prompt as a list of token ids"):
            lab.stream(pair, prompt)
    with pytest.raises(ValueError, match="leave stop empty"):
        lab.stream(pair, [1], stop="x")


def test_cache_that_cannot_be_rolled_back(golden, monkeypatch):
    """Refused at the call, by name, unless nothing is drafted."""

    class Recurrent(KVCache):
        def is_trimmable(self):
            return False

    entries = [RotatingKVCache(512, keep=4), *(Recurrent() for _ in range(5))]  # the first keeps its first 4 tokens
    monkeypatch.setattr(golden.target.model, "make_cache", lambda: entries, raising=False)
    with pytest.raises(CannotRollBack, match="keeps Recurrent, RotatingKVCache entries that cannot be rolled back"):
        lab.stream(golden, PROMPT, "dspark")
    assert len(lab.generate(golden, PROMPT, "baseline", max_tokens=3).tokens) == 3


def test_places(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"'Qwen3-4B' is no folder on this machine.* as OWNER/NAME"):
        lab.load_pair("Qwen3-4B")
    with pytest.raises(FileNotFoundError, match=r"Qwen/Qwen3-4B is not whole in the Hub's cache .* HF_HUB_OFFLINE"):
        lab.load_pair("Qwen/Qwen3-4B")
    monkeypatch.setattr(pair_module, "WEIGHTS", tmp_path / "weights")
    for name in (None, "lab", "lab-base"):
        with pytest.raises(FileNotFoundError, match="make them with `dspark-lab train lab --out DIR`"):
            lab.load_pair(name)


@pytest.fixture
def folders(golden_folder, tmp_path):
    """Copies of a target's and a drafter's folder, to be damaged."""
    for name in ("target", "dspark_vanilla"):
        shutil.copytree(golden_folder / name, tmp_path / name)
    return SimpleNamespace(target=tmp_path / "target", drafter=tmp_path / "dspark_vanilla")


def edit(folder, **changes):
    """Change config.json; a value of None removes the entry."""
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))


def tamper(folder, change):
    """Rewrite the weights: ``change`` gets the dict of tensors."""
    path = folder / "model.safetensors"
    weights = {name: mx.array(tensor) for name, tensor in mx.load(str(path)).items()}
    mx.eval(weights)
    change(weights)
    mx.save_safetensors(str(path), weights)


def put(name, value):
    """A change that sets the tensor ``name``."""
    return lambda weights: weights.update({name: value})


def refusal(folders, kind=ValueError):
    """What load_pair says about the damaged folders, in one line."""
    with pytest.raises(kind) as error:
        lab.load_pair(folders.target, drafter=folders.drafter)
    return str(error.value)


@pytest.mark.parametrize("which", ["target", "drafter"])
def test_damaged_folder(folders, which):
    folder = getattr(folders, which)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert f"{weights} is damaged or incomplete" in refusal(folders)
    weights.write_bytes(b"<html>not found</html>")
    assert f"{weights} is damaged or incomplete" in refusal(folders)
    weights.unlink()
    assert f"{folder} has no model*.safetensors file" in refusal(folders, FileNotFoundError)
    (folder / "config.json").write_text("{")
    assert f"{folder / 'config.json'} is not valid JSON" in refusal(folders)
    (folder / "config.json").write_text("[]")
    assert f"{folder / 'config.json'} holds a list rather than an object" in refusal(folders)
    (folder / "config.json").unlink()
    assert f"{folder} has no config.json" in refusal(folders, FileNotFoundError)


@pytest.mark.parametrize(("which", "name"), [("target", "model.norm.weight"), ("drafter", "norm.weight")])
def test_tensors_that_do_not_fit(folders, which, name):
    """Missing, misshapen, extra, NaN: named, with the shapes, and the folder that they are in."""
    folder = getattr(folders, which)
    tamper(folder, lambda weights: weights.pop(name))
    message = refusal(folders)
    assert str(folder) in message and name in message and "issing" in message
    tamper(folder, put(name, mx.ones((65,))))
    message = refusal(folders)
    assert all(words in message for words in (str(folder), name, "(65,)", "(64,)"))
    tamper(folder, put(name, mx.array([1.0] * 63 + [float("nan")])))
    message = refusal(folders)
    assert str(folder) in message and f"{name} hold NaN" in message
    tamper(folder, put(name, mx.ones((64,))))
    tamper(folder, put("surplus.weight", mx.ones((3,))))
    message = refusal(folders)
    assert str(folder) in message and "surplus.weight" in message


def test_missing_tensor_of_a_drafter_comes_with_its_shape(folders):
    tamper(folders.drafter, lambda weights: weights.pop("fc.weight"))
    assert "fc.weight is missing, expected shape (64, 320)" in refusal(folders)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vocab_size": 160}, "made for a target with vocabulary 160, this target has 128; give the drafter its own"),
        ({"hidden_size": 32}, "made for a target with hidden size 32, this target has 64"),
        ({"num_target_layers": 8}, "made for a target with number of target layers 8, this target has 6"),
        ({"target_layer_ids": [0, 1, 5]}, "taps target layers [5]; allowed are -1 (the embedding) to 4"),
        ({"target_layer_ids": [-2, 1, 3]}, "taps target layers [-2]; allowed are -1"),
        ({"architectures": ["MedusaModel"]}, "no drafter here reads a MedusaModel; known are"),
        ({"markov_head_type": "cubic"}, "no Markov head here is of type 'cubic'; known are vanilla, gated, rnn"),
        ({"mask_token_id": 128}, "mask_token_id 128 is outside the vocabulary of 128"),
        ({"confidence_temperatures": [1.0, 2.0]}, "confidence_temperatures has 2 entries, but the block has 7"),
        ({"confidence_temperatures_greedy": [1.0] * 6 + [0.0]}, "confidence_temperatures_greedy holds 0.0"),
        ({"block_size": None, "num_target_layers": None}, "config.json lacks num_target_layers, block_size"),
    ],
)
def test_drafter_that_does_not_fit(folders, changes, words):
    edit(folders.drafter, **changes)
    message = refusal(folders)
    assert words in message and str(folders.drafter) in message


def test_target_that_mlx_lm_does_not_know(folders):
    edit(folders.target, model_type="cubist")
    assert f"mlx-lm cannot load {folders.target}: Model type cubist not supported" in refusal(folders)
    edit(folders.target, model_type="qwen3", num_hidden_layers=None)
    assert "num_hidden_layers" in refusal(folders)


def test_nothing_from_a_checkpoint_is_executed(folders):
    for folder in (folders.target, folders.drafter):
        (folder / "modeling.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
    edit(folders.target, model_file="modeling.py", auto_map={"AutoModel": "modeling.Model"})
    assert "brings code of its own (modeling.py), and none is run here" in refusal(folders)
    edit(folders.target, model_file=None)
    edit(folders.drafter, model_file="modeling.py", auto_map={"AutoModel": "modeling.Model"})
    assert lab.load_pair(folders.target, drafter=folders.drafter).default_mode == "dspark"
    assert not list(folders.target.parent.glob("*/ran"))


def test_damaged_tokenizer(folders):
    (folders.target / "tokenizer.json").write_text("{")
    assert f"the tokenizer in {folders.target} cannot be loaded" in refusal(folders)


def test_drafters_of_one_kind(folders):
    with pytest.raises(ValueError, match="are both dspark drafters; give one of them"):
        lab.load_pair(folders.target, drafter=[folders.drafter, folders.drafter])


def test_max_draft_follows_the_drafters_own_block():
    pair = lab.Pair(ScriptedTarget([0] * 99), {"scripted": ScriptedDrafter([0] * 99, draft_length=3)})
    with pytest.raises(ValueError, match="from 0 to 3"):
        lab.stream(pair, [1], "scripted", max_draft=4)
    assert max(r.draft_length for r in lab.stream(pair, [1], "scripted", max_draft=3, max_tokens=9)) == 3
