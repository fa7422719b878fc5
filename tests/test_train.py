"""The recipe end to end at toy size, its losses against a second computation, and resuming."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlx_lm
import numpy as np
import pytest

import dspark_lab as lab
from dspark_lab.checkpoint import dequantize, read_config, read_weights
from dspark_lab.pair import WEIGHTS
from dspark_lab.sampling import Sampling
from dspark_lab.train import drafter_stages, loop
from dspark_lab.train.drafters import drafter_loss, teach
from dspark_lab.train.folders import read_curves
from dspark_lab.train.lab import SHIPPED, TINY, train_lab
from dspark_lab.train.losses import CONFIDENCE, DFLASH, DSPARK, block_loss, position_weights

PROBLEM = "Tom has 3 pens. Tom buys 4 more at the market. How many pens does Tom have now?"


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The folder of a toy run of every stage."""
    return train_lab(tmp_path_factory.mktemp("lab"), tiny=True)


def test_every_stage_leaves_its_product_and_the_pair_loads(trained):
    pair = lab.load_pair(trained)
    assert set(SHIPPED) <= set(pair.modes)
    plain = lab.generate(pair, PROBLEM, mode="baseline", max_tokens=24).tokens
    for mode in SHIPPED:
        assert lab.generate(pair, PROBLEM, mode=mode, max_tokens=24).tokens == plain, mode
    curves = json.loads((trained / "curves.json").read_text())
    assert set(curves) == {"base", "instruct", *SHIPPED, "confidence", "small"}
    assert mlx_lm.load(str(trained / "small"))[0].args.vocab_size == pair.target.vocab_size
    assert curves["base"][-1][1] < curves["base"][0][1] - 0.5  # it learned something


def test_a_finished_run_is_not_run_again(trained):
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*") if path.is_file()}
    train_lab(trained, tiny=True)
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*") if path.is_file()} == before


def test_confidence_is_trained_from_what_was_stored(trained, tmp_path, monkeypatch):
    """Steps of length zero leave what stage 5 stored, and true ones move it, by the losses of this stage."""
    used, moved = [], {}

    def loss(weights, *batch):
        used.append(weights)
        return drafter_loss(weights, *batch)

    monkeypatch.setattr(drafter_stages, "drafter_loss", loss)
    for rate in (0.0, 1e-2):
        out = Path(shutil.copytree(trained, tmp_path / f"{rate}"))
        curves = {name: curve for name, curve in read_curves(out).items() if name != "confidence"}
        (out / "curves.json").write_text(json.dumps(curves))
        before = stored(out / "dspark")
        drafter_stages.sharpen_confidence(out, replace(TINY, confidence_learning_rate=rate))
        after = stored(out / "dspark")
        assert before.keys() == after.keys() and "confidence" in read_curves(out)
        moved[rate] = {name: mx.abs(after[name] - before[name]).max().item() for name in before}
    assert max(moved[0.0].values()) < 1e-3  # stored once more in 8 bits
    assert moved[1e-2]["confidence_head.proj.weight"] > 1e-2 and moved[1e-2]["fc.weight"] > 1e-2
    assert set(used) == {CONFIDENCE}


def stored(folder):
    """The dequantized weights of a drafter's ``folder``, by name, read now: the file will be replaced."""
    weights = dequantize(read_weights(folder), read_config(folder)["quantization"])
    mx.eval(weights)
    return weights


def test_the_shipped_weights_fit_in_their_budget():
    assert sum(path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file()) <= 36_000_000


def test_what_ships_has_no_copies_of_the_targets_embedding_and_head(trained):
    shipped = [path for path in trained.rglob("*.safetensors") if not {"work", "small"} & set(path.parts)]
    assert len(shipped) == 2 + len(SHIPPED)
    for name in SHIPPED:  # embedding and head are the target's
        assert not {"embed_tokens.weight", "lm_head.weight"} & mx.load(str(trained / name / "model.safetensors")).keys()


def test_every_prompt_is_asked_before_any_is_asked_twice(trained):
    """61,440 responses to 55,300 prompts once covered the first 12,288 alone, all prose: see the changelog."""
    chats, answered = (dict(np.load(trained / "work" / f"{name}.npz")) for name in ("chats", "responses"))

    def prompts(data, rows):
        starts, lengths = data["offsets"][:-1], data["prompt_lengths"]
        return [tuple(data["tokens"][starts[i] : starts[i] + lengths[i]]) for i in rows]

    asked = prompts(answered, range(len(answered["prompt_lengths"])))
    train = prompts(chats, np.flatnonzero(~chats["heldout"]))
    assert set(asked) <= set(train)
    domain = dict(zip(train, chats["domains"][~chats["heldout"]]))
    assert {domain[prompt] for prompt in asked} == set(chats["domains"][~chats["heldout"]])
    assert TINY.responses == len(asked) < len(train)


def test_training_sees_what_drafting_sees(trained):
    """Teacher-forced draft logits at an anchor are those of the drafter in the loop, with its cache, at that anchor."""
    pair = lab.load_pair(trained)
    ids = pair.tokenizer.encode(PROBLEM + " " + PROBLEM)
    for mode in ("dspark", "dflash", "dflash16", "eagle3"):
        drafter, anchor = pair.drafters[mode], 20
        logits, hidden = teach(pair.target, drafter.taps, mx.array([ids]))
        _, overlap, valid = drafter_loss(
            DSPARK, drafter, logits, hidden, mx.array([ids]), mx.array([[anchor]]), mx.array([len(ids)])
        )
        cache = drafter.new_cache()
        drafter.commit(ids[:anchor], hidden[:, :anchor], cache)
        draft = drafter.propose(ids[anchor], 1, cache, Sampling(temperature=1.0), mx.random.key(0))
        p = mx.softmax(logits[0, anchor], axis=-1)
        assert valid.all().item(), mode
        assert abs(mx.sum(mx.minimum(p, draft.probs[0])).item() - overlap[0, 0].item()) < 1e-4, mode


def test_block_loss_is_the_papers_formula():
    rng = np.random.default_rng(0)
    logits, p = rng.normal(size=(2, 7, 5)), rng.dirichlet(np.ones(5), size=(2, 7))
    tokens, confidence = rng.integers(5, size=(2, 7)), rng.normal(size=(2, 7))
    q = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    l1 = np.abs(q - p).sum(-1)
    entropy = -np.log(np.take_along_axis(q, tokens[..., None], -1))[..., 0]
    c, goal = 1 / (1 + np.exp(-confidence)), 1 - l1 / 2
    bce = -goal * np.log(c) - (1 - goal) * np.log(1 - c)
    w = np.exp(-np.arange(7) / 4.0)
    expected = ((0.1 * entropy + 0.9 * l1 + bce) * w).sum() / (2 * w.sum())
    arrays = [mx.array(a) for a in (logits.astype(np.float32), confidence.astype(np.float32), p.astype(np.float32))]
    loss, overlap = block_loss(DSPARK, *arrays, mx.array(tokens), mx.ones((2, 7)))
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert np.allclose(np.array(overlap), np.minimum(p, q).sum(-1), atol=1e-5)
    loss, _ = block_loss(DFLASH, arrays[0], None, arrays[2], mx.array(tokens), mx.ones((2, 7)))
    assert loss.item() == pytest.approx((entropy * w).sum() / (2 * w.sum()), rel=1e-5)
    assert np.allclose(np.array(position_weights(7, 4.0)), w)


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path, monkeypatch):
    """Saved at every window and broken off half-way, a run ends with the weights of an unbroken one.

    A part without weights, as a drafter's rotary embedding is, leaves nothing in a saved file.
    """
    monkeypatch.setattr(loop, "SAVE_EVERY", 0)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers, self.relu = [nn.Linear(4, 3), nn.ReLU()], nn.ReLU()

        def __call__(self, x):
            return self.relu(self.layers[0](x))

    def run(folder, breaks_at=None):
        folder.mkdir(exist_ok=True)
        mx.random.seed(3)
        model = Model()

        def batches(step):
            if step == breaks_at:
                raise KeyboardInterrupt
            rng = np.random.default_rng(step)
            return mx.array(rng.normal(size=(8, 4)).astype(np.float32)), mx.array(rng.integers(3, size=8))

        def loss(_, model, x, y):
            return nn.losses.cross_entropy(model(x), y, reduction="mean")

        curve = loop.fit({"m": model}, loss, batches, 40, 0.1, folder, "resuming")["m"]
        return model.layers[0].weight.tolist(), [tuple(point) for point in curve]

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", breaks_at=23)
    assert run(tmp_path / "broken") == whole
    assert not list((tmp_path / "broken").iterdir())
