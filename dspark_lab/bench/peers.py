"""Other implementations on the lab pair's very weights, and ours among them, each as a way of decoding.

An *opener* loads its implementation's own copy of the pair and returns ``run(prompt, max_tokens, **setting)``, which
continues token ids greedily and yields (time, tokens) as they come, a round at a time: implementations that hand out a
round's tokens one by one are given the time of the first of them. What an implementation cannot do it says by raising.

Every opener takes the same three places: ``model``, what `load_pair` loads; ``folder``, that pair as whole float32
checkpoints (`export_pair`); ``small``, the folder of a small model for mlx-lm to draft with, or None.
"""

import time
from importlib.metadata import PackageNotFoundError, version
from itertools import accumulate, groupby, pairwise
from pathlib import Path

import mlx.core as mx

from dspark_lab.generate import stream
from dspark_lab.pair import load_pair, to_float32

OURS = "dspark-lab"
PLAIN, AUTO, STATIC = f"{OURS}, plain", f"{OURS}, DSpark, auto", f"{OURS}, DSpark, best cap"
MLX_LM, MLX_DSPARK = "mlx-lm, plain", "mlx-dspark, DSpark, best cap, no lookup"


def rows(caps):
    """Every row of the table: name -> (opener, the settings of which it shows the best); ``caps`` of drafts to try."""
    wide = [*caps, 15]
    return {
        PLAIN: (dspark_lab, [{"mode": "baseline"}]),
        AUTO: (dspark_lab, [{"mode": "dspark", "max_draft": "auto"}]),
        STATIC: (dspark_lab, [{"mode": "dspark", "max_draft": cap} for cap in caps]),
        f"{OURS}, DFlash-16, best cap": (dspark_lab, [{"mode": "dflash16", "max_draft": cap} for cap in wide]),
        MLX_LM: (mlx_lm, [{}]),
        "mlx-lm, small model drafts, best cap": (mlx_lm, [{"num_draft_tokens": cap} for cap in caps]),
        MLX_DSPARK: (mlx_dspark, [{"max_draft_tokens": cap, "lookup_drafts": False} for cap in caps]),
        "mlx-dspark, DSpark, its defaults": (mlx_dspark, [{}]),
        "mlx-vlm, DSpark": (mlx_vlm, [{"drafter": "dspark"}]),
        "mlx-vlm, DFlash-16": (mlx_vlm, [{"drafter": "dflash16"}]),
        "dflash-mlx, DFlash-16, best block": (dflash_mlx, [{}, *({"block_tokens": cap + 1} for cap in wide)]),
    }


def versions():
    """Which versions of the others are installed: package -> version, or None."""
    found = {}
    for package in ("mlx-lm", "mlx-dspark", "mlx-vlm", "dflash-mlx"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def dspark_lab(model, folder, small):
    """This library: ``mode`` and ``stream``'s options."""
    pair = load_pair(model)

    def run(prompt, max_tokens, mode, **options):
        for r in stream(pair, prompt, mode, max_tokens=max_tokens, **options):
            yield time.perf_counter(), r.committed

    return run


def mlx_lm(model, folder, small):
    """``mlx_lm.stream_generate``; with ``num_draft_tokens`` its own speculative decoding, drafts by the small model."""
    from mlx_lm import load, stream_generate
    from mlx_lm.utils import load_model

    target, tokenizer = load(str(folder / "target"))
    drafter = load_model(Path(small))[0] if small else None
    if small and mx.default_device() == mx.cpu:
        to_float32(drafter)  # as our own drafters are: quantized products are slow on a CPU

    def run(prompt, max_tokens, **options):
        if options and drafter is None:
            raise ValueError("there is no small model; give the folder that the training made with --small")
        options |= {"draft_model": drafter} if options else {}
        arrived, number = [], 0
        for response in stream_generate(target, tokenizer, prompt, max_tokens=max_tokens, **options):
            arrived.append((time.perf_counter(), number, response.token))
            number += not response.from_draft  # the target's own token ends a round
        return by_round(arrived)

    return run


def mlx_dspark(model, folder, small):
    """``mlx_dspark.speculative_generate`` with its ``options``; the drafter is not quantized, as ours is not."""
    from mlx_dspark import load_drafter, load_target, speculative_generate

    target, tokenizer = load_target(str(folder / "target"), require_tap=True)
    drafter, _ = load_drafter(str(folder / "dspark"), quantize=False)

    def run(prompt, max_tokens, **options):
        times, counts = [], []

        def on_round(committed, **_):
            times.append(time.perf_counter())
            counts.append(committed)

        given = {"prompt_ids": prompt, "max_new_tokens": max_tokens, "on_round": on_round, **options}
        tokens = speculative_generate(target, tokenizer, drafter, **given).token_ids
        if not times:
            return [(time.perf_counter(), tokens)]
        ends = [0, *accumulate(counts[1:], initial=1 + counts[0])]  # a first token comes before the first round
        return [(at, tokens[start:end]) for at, (start, end) in zip(times, pairwise(ends))]

    return run


def mlx_vlm(model, folder, small):
    """``mlx_vlm``'s generation with one of its speculative drafters; ``drafter``: our name of the checkpoint.

    Only some of its targets hand out the tapped states that these draft from; its Qwen3, as of 0.7.10, does not.
    """
    from mlx_vlm import load
    from mlx_vlm.generate import generate_step
    from mlx_vlm.speculative.drafters import load_drafter

    target, _ = load(str(folder / "target"))
    if target.language_model(mx.array([[0]]), capture_layer_ids=[0]).hidden_states is None:
        raise ValueError(f"its {target.config.model_type} target returns no tapped states, which its drafters need")
    stop = load_pair(model).stop_tokens

    def run(prompt, max_tokens, drafter):
        draft_model, kind = load_drafter(str(folder / drafter))
        options = {"max_tokens": max_tokens, "temperature": 0, "draft_model": draft_model, "draft_kind": kind}
        for token, _ in generate_step(mx.array([prompt]), target, None, None, **options):
            yield time.perf_counter(), [int(token)]
            if int(token) in stop:
                return

    return run


def dflash_mlx(model, folder, small):
    """``dflash_mlx`` with the DFlash-16 drafter; ``block_tokens``: its block, the anchor included (left out: its own).

    Its drafter is not quantized and its prefix cache is off, as in its own ``generate`` command.
    """
    from dflash_mlx.engine.events import TokenEvent
    from dflash_mlx.runtime import get_stop_token_ids, stream_dflash_generate
    from dflash_mlx.runtime.bundle import load_runtime_bundle
    from dflash_mlx.runtime.context import build_offline_runtime_context

    context = build_offline_runtime_context()
    places = {"model_ref": str(folder / "target"), "draft_ref": str(folder / "dflash16"), "draft_quant": "none"}
    loaded = load_runtime_bundle(**places, verify_config=context.verify)
    parts = ("target_model", "target_ops", "tokenizer", "draft_model", "draft_backend")
    fixed = {part: getattr(loaded, part) for part in parts} | {"runtime_context": context}
    fixed["stop_token_ids"] = get_stop_token_ids(loaded.tokenizer)

    def run(prompt, max_tokens, **options):
        events = stream_dflash_generate(**fixed, prompt_tokens_override=prompt, max_new_tokens=max_tokens, **options)
        tokens = ((time.perf_counter(), event) for event in events if isinstance(event, TokenEvent))
        return by_round([(at, event.cycles_completed, event.token_id) for at, event in tokens])

    return run


def by_round(arrived):
    """Tokens that arrived one by one, (time, number of the round, token) each, as (time, tokens) a round."""
    rounds = (list(group) for _, group in groupby(arrived, key=lambda arrival: arrival[1]))
    return [(group[0][0], [int(token) for _, _, token in group]) for group in rounds]
