"""What others have measured, as data to compare with; every table names its source. No figure here is this code's."""

TASKS = {  # the paper's benchmarks by what kind of text they ask for
    "math": ("GSM8K", "MATH", "AIME25"),
    "code": ("MBPP", "HumanEval", "LCB"),
    "chat": ("MT-Bench", "Alpaca", "Arena-Hard"),
}
# Target -> drafter -> accepted length by task, in the order of TASKS; whole block of 7, temperature 1, the target's own
# token included. Source: the DSpark paper (2026), table 1.
ACCEPTED_LENGTH = {
    "Qwen3-4B": {
        "eagle3": (5.14, 4.62, 3.92, 3.69, 4.16, 3.77, 2.39, 2.26, 2.55),
        "dflash": (5.40, 4.85, 4.15, 4.40, 4.74, 4.18, 3.07, 2.96, 2.83),
        "dspark": (6.11, 5.70, 4.89, 5.13, 5.38, 4.86, 3.64, 3.54, 3.29),
    },
    "Qwen3-8B": {
        "eagle3": (5.30, 4.77, 3.91, 3.96, 4.33, 4.17, 2.66, 2.54, 2.54),
        "dflash": (5.33, 4.91, 4.07, 4.36, 4.64, 4.39, 3.11, 2.98, 2.81),
        "dspark": (6.17, 5.78, 5.01, 5.16, 5.52, 5.17, 3.72, 3.58, 3.21),
    },
    "Qwen3-14B": {
        "eagle3": (5.24, 4.60, 3.71, 3.81, 4.14, 4.01, 2.62, 2.47, 2.48),
        "dflash": (5.41, 4.84, 3.98, 4.44, 4.59, 4.33, 3.10, 2.94, 2.72),
        "dspark": (6.21, 5.74, 4.94, 5.26, 5.43, 5.02, 3.70, 3.58, 3.13),
    },
    "Gemma4-12B": {
        "eagle3": (5.87, 5.46, 4.83, 4.72, 5.37, 4.16, 3.19, 3.06, 2.72),
        "dflash": (5.45, 5.04, 4.22, 4.39, 4.95, 3.70, 2.98, 2.84, 2.59),
        "dspark": (6.05, 5.78, 5.12, 5.11, 5.64, 4.51, 3.49, 3.35, 2.92),
    },
}
# Kind of text -> drafter -> {position: conditional acceptance}. Source: the DSpark paper, section 4.3.1; its text gives
# no more points than these.
CONDITIONAL_ACCEPTANCE = {
    "math": {"dspark": {1: 0.93}, "dflash": {1: 0.88}, "eagle3": {1: 0.81}},
    "chat": {"dflash": {1: 0.72, 7: 0.63}, "eagle3": {1: 0.53, 7: 0.74}},
}
# Block length -> kind of text -> DSpark's accepted length over DFlash's, less 1. Source: the DSpark paper, 4.3.2.
GAIN_BY_BLOCK = {7: {"math": 0.16, "code": 0.15, "chat": 0.18}, 15: {"math": 0.30, "code": 0.26, "chat": 0.22}}

# Target -> plain tokens a second, those with DSpark, cap 2, and its accepted length, each about. Apple M4 Pro, 48 GB,
# warm, 8-bit target, 4-bit drafter. Source: mlx-dspark's own tables.
M4_PRO_OVERALL = {"Qwen3-4B": (52.9, 73, 2.25), "Qwen3-8B": (29.4, 47, 2.44), "Gemma-4 12B": (18.4, 30, 2.5)}
# Target -> (plain tokens a second, method -> kind of text -> (accepted length, tokens a second)). Apple M4 Pro, 48 GB,
# greedy, 8-bit target, 4-bit drafter. Source: mlx-dspark's own tables.
M4_PRO = {
    "Gemma-4 12B": (
        17.3,
        {
            "dspark cap 2": {"chat": (2.45, 28.5), "code": (2.78, 32.8), "math": (2.86, 32.4)},
            "dflash16 cap 2": {"chat": (2.15, 24.2), "code": (2.76, 31.3), "math": (2.71, 29.6)},
            "dflash16 whole": {"chat": (2.68, 16.9), "code": (5.95, 36.6), "math": (6.20, 36.3)},
        },
    ),
    "Qwen3-8B": (
        28.8,
        {
            "dspark cap 2": {"chat": (2.38, 45.7), "code": (2.55, 48.8), "math": (2.40, 46.1)},
            "dflash16 cap 2": {"chat": (1.99, 33.8), "code": (2.22, 37.0), "math": (2.11, 35.7)},
            "dflash16 whole": {"chat": (2.19, 21.1), "code": (2.94, 27.6), "math": (2.66, 25.5)},
        },
    ),
}
# Target -> bits of its weights -> (plain tokens a second, lowest and highest with DSpark). Source and machine as above.
M4_PRO_PRECISION = {
    "Gemma-4 12B": {8: (17.5, 30, 30), 4: (30.6, 34, 38)},
    "Qwen3-4B": {8: (49.8, 73, 73), 4: (82, 96, 103)},
}
# Acceptance at position 1 of a drafter beside the target it was trained on, and beside that one's base model. Source
# as above.
FIRST_TOKEN = {"instruct": 0.82, "base": 0.47}
