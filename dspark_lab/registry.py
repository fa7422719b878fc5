"""The published targets that have drafters, and what others have measured with them. Names only: nothing is fetched.

A drafter is trained on one target's own answers. Quantisation and who converted it do not change a target, so that they
are cut off its name before it is looked up; "Base", "Instruct-2507" and the like do, and are not.
"""

import re
from dataclasses import dataclass, field
from itertools import chain

from dspark_lab.published import ACCEPTED_LENGTH, M4_PRO_OVERALL, TASKS

# Where a name's words start to speak of precision or conversion; all that follows describes them further.
CONVERSION = re.compile(
    r"\d+(\.\d+)?bit|(bf|fp|f|float|int|uint|mxfp|nvfp|q|iq)\d\w*|mlx|dwq|awq|gptq|qat|bnb|unsloth|ud|optiq|mixed|gguf",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Figure:
    """A published result: ``what`` was seen, on which ``machine``, and whose figure it is."""

    what: str
    machine: str
    source: str


@dataclass(frozen=True)
class Published:
    """A target with drafters on the Hub.

    ``original``: its makers' repository. ``converted``: one in MLX's format to start with. ``billions``: of parameters.
    ``shape``: hidden size, layers and vocabulary, which a drafter must fit. ``drafters``: mode -> repository, best
    first. ``drafter_billions``: parameters of the best one, from its tensors' shapes; None where they are not known.
    """

    name: str
    original: str
    converted: str
    billions: float
    shape: tuple[int, int, int]
    drafters: dict
    drafter_billions: float | None = None
    figures: tuple[Figure, ...] = field(default=())


def deepspec(name):
    """DeepSpec's three drafters for one target."""
    return {
        "dspark": f"deepseek-ai/dspark_{name}_block7",
        "dflash": f"deepseek-ai/dflash_{name}_block7",
        "eagle3": f"deepseek-ai/eagle3_{name}_ttt7",
    }


def paper(target):
    """The DSpark paper's accepted length of ``target`` with DSpark."""
    by_task = dict(zip(chain(*TASKS.values()), ACCEPTED_LENGTH[target]["dspark"]))
    said = f"{by_task['GSM8K']:.2f} tokens a pass on GSM8K, {by_task['HumanEval']:.2f} HumanEval"
    what = f"{said}, {by_task['MT-Bench']:.2f} MT-Bench (temperature 1, whole block)"
    return Figure(what, "", "DSpark paper, 2026")


def m4(target):
    """The row of ``target`` in mlx-dspark's table: warm, 8-bit target, 4-bit DSpark drafter, cap 2."""
    plain, speculative, accepted = M4_PRO_OVERALL[target]
    said = f"{plain:g} to {speculative:g} tokens/s, {speculative / plain:.1f}x, {accepted:g} tokens a pass"
    return Figure(f"{said} (8-bit target, cap 2)", "M4 Pro, 48 GB", "mlx-dspark")


def m5(what):
    """A row of dflash-mlx's table: 2048 tokens, against mlx_lm."""
    return Figure(what, "M5 Max, 64 GB", "dflash-mlx, April 2026")


PUBLISHED = (
    Published(
        "Qwen3-4B",
        "Qwen/Qwen3-4B",
        "mlx-community/Qwen3-4B-8bit",
        4.0,
        (2560, 36, 151936),
        {**deepspec("qwen3_4b"), "dflash16": "z-lab/Qwen3-4B-DFlash-b16"},
        1.4,
        (m4("Qwen3-4B"), paper("Qwen3-4B")),
    ),
    Published(
        "Qwen3-8B",
        "Qwen/Qwen3-8B",
        "mlx-community/Qwen3-8B-8bit",
        8.2,
        (4096, 36, 151936),
        {**deepspec("qwen3_8b"), "dflash16": "z-lab/Qwen3-8B-DFlash-b16"},
        2.4,
        (m4("Qwen3-8B"), paper("Qwen3-8B")),
    ),
    Published(
        "Qwen3-14B",
        "Qwen/Qwen3-14B",
        "mlx-community/Qwen3-14B-8bit",
        14.8,
        (5120, 40, 151936),
        deepspec("qwen3_14b"),
        3.4,
        (paper("Qwen3-14B"),),
    ),
    Published(
        "Gemma-4 12B",
        "google/gemma-4-12B-it",
        "mlx-community/gemma-4-12B-it-8bit",
        12.0,
        (3840, 48, 262144),
        {**deepspec("gemma4_12b"), "dflash16": "z-lab/gemma4-12B-it-DFlash"},
        3.4,
        (m4("Gemma-4 12B"), paper("Gemma4-12B")),
    ),
    *(
        Published(
            name,
            f"Qwen/{name}",
            f"mlx-community/{name}-{bits}bit",
            billions,
            shape,
            {"dflash16": f"z-lab/{name}-DFlash"},
            figures=(m5(what),),
        )
        for name, bits, billions, shape, what in (
            ("Qwen3.5-4B", 8, 4.0, (2560, 32, 248320), "53.7 to 219.8 tokens/s, 4.1x, 89.3 % accepted"),
            ("Qwen3.5-9B", 8, 9.0, (4096, 32, 248320), "31.0 to 127.1 tokens/s, 4.1x"),
            ("Qwen3.5-27B", 4, 27.0, (5120, 64, 248320), "32.4 to 62.8 tokens/s, 1.9x (4-bit target)"),
            ("Qwen3.5-35B-A3B", 4, 35.0, (2048, 40, 248320), "142.1 to 240.2 tokens/s, 1.7x (4-bit target)"),
        )
    ),
)


def key(name):
    """What a target's name (a repository's or a folder's) says once owner, punctuation and conversion are gone."""
    words = re.split(r"[-_ ]", name.rstrip("/").rpartition("/")[2])
    end = next((i for i, word in enumerate(words) if i and CONVERSION.fullmatch(word)), len(words))
    return "".join(words[:end]).lower()


def find(name):
    """The Published target that ``name`` is a conversion of, or None."""
    return next((known for known in PUBLISHED if key(name) == key(known.original)), None)


def choose(modes, available, name):
    """The entries of ``available`` (mode -> place) for ``modes``, a list. Raises ValueError for one not there."""
    wanted = [mode for mode in modes if mode not in ("baseline", "lookup")]  # these two need no weights
    if missing := [mode for mode in wanted if mode not in available]:
        raise ValueError(
            f"mode {missing[0]!r} is not in the pair {name}; it has {', '.join(['baseline', 'lookup', *available])}"
        )
    return [available[mode] for mode in wanted]


def no_drafter(name, config):
    """What to tell somebody whose target ``name``, with this config.json, no drafter was made for."""
    text = config.get("text_config", config)
    shape = tuple(text.get(entry) for entry in ("hidden_size", "num_hidden_layers", "vocab_size"))
    fitting = [
        f"{repo} (made for {known.name})"
        for known in PUBLISHED
        if known.shape == shape
        for repo in known.drafters.values()
    ]
    advice = 'name one with drafter="OWNER/NAME" (--drafter), or take mode="lookup" or "baseline", which need none'
    if fitting:
        return (
            f"no drafter is known that was made for {name}; these fit its shape and will draft for it, less well than "
            f"for the target they were made for: {', '.join(fitting)}; {advice}"
        )
    return (
        f"no drafter is known for {name}, and none fits its shape (hidden size {shape[0]}, {shape[1]} layers, "
        f"vocabulary {shape[2]}); drafters are known for {', '.join(known.name for known in PUBLISHED)}; {advice}"
    )
