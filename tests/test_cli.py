"""The command line: what it prints on a terminal and into a pipe, its exit codes, and what ``--help`` may import."""

import json
import platform
import re
import subprocess
import sys
from importlib.metadata import version
from types import ModuleType

import mlx.core as mx
import pytest
import typer
from typer.testing import CliRunner

import dspark_lab as lab
import dspark_lab.pair
from dspark_lab import cli, course, doctor, memory
from dspark_lab.listing import parameters
from dspark_lab.registry import PUBLISHED
from dspark_lab.terminal import Ribbon

PROMPT = "def encode(self, input):"
PLAIN = {"NO_COLOR": None, "FORCE_COLOR": None, "COLUMNS": "80"}
TERMINAL = {"NO_COLOR": None, "FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": "80"}


@pytest.fixture
def command(golden_folder):
    """Run dspark-lab; "--golden" among the arguments stands for the golden pair."""

    def run(*args, env=PLAIN, stdin=None):
        pair = ("--model", str(golden_folder / "target"), "--drafter", str(golden_folder / "dspark_vanilla"))
        args = [part for arg in args for part in (pair if arg == "--golden" else [str(arg)])]
        result = CliRunner().invoke(cli.app, args, input=stdin, env=env, prog_name="dspark-lab")
        assert "Traceback" not in result.output and (result.exception is None or type(result.exception) is SystemExit)
        return result

    return run


@pytest.mark.parametrize(
    "options",
    [{}, {"mode": "baseline"}, {"mode": "lookup", "max_draft": 3}, {"temperature": 1.0, "top_k": 5, "seed": 3}],
)
def test_piped_output_is_the_text_alone(command, golden, options):
    args = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]
    result = command("generate", "--golden", "--prompt", PROMPT, "--max-tokens", 40, *args)
    assert result.exit_code == 0 and result.stderr == ""
    assert result.stdout == lab.generate(golden, PROMPT, max_tokens=40, **{"mode": "dspark", **options}).text + "\n"


def test_prompt_from_stdin(command):
    by_option = command("generate", "--golden", "--prompt", PROMPT, "--max-tokens", 20)
    assert command("generate", "--golden", "--max-tokens", 20, stdin=PROMPT + "\n").stdout == by_option.stdout


def test_json_adds_up(command, golden):
    expected = lab.generate(golden, PROMPT, "dspark", max_tokens=40, confidence_threshold=0.5, max_draft=5)
    options = ("--confidence-threshold", 0.5, "--max-draft", 5, "--max-tokens", 40, "--json")
    record = json.loads(command("generate", "--golden", "--prompt", PROMPT, *options).stdout)
    rounds = [lab.Round.from_dict(r) for r in record["rounds"]]
    assert record["tokens"] == expected.tokens == [token for r in rounds for token in r.committed]
    assert record["text"] == expected.text == "".join(r.text for r in rounds)
    assert record["finish_reason"] == expected.finish_reason
    assert record["passes"] == len(rounds) == len(expected.rounds)
    assert record["mean_accepted_length"] == pytest.approx(40 / len(rounds))
    assert record["tokens_per_sec"] == pytest.approx(40 / sum(r.seconds for r in rounds))


def test_terminal_shows_fates(command):
    """Coloured on a terminal; with NO_COLOR the same characters, without one escape code."""
    args = ("generate", "--golden", "--prompt", PROMPT, "--max-tokens", 40)
    coloured, plain = command(*args, env=TERMINAL).stdout, command(*args, env={**TERMINAL, "NO_COLOR": "1"}).stdout
    assert "\x1b[" in coloured and "\x1b" not in plain
    for glyph, fate in (("·", "accepted"), ("×", "rejected"), ("→", "correction"), ("+", "bonus")):
        assert f"{glyph} {fate}" in plain
    assert "→r·e×s→t·u·r×e→n" in plain and "40 tokens in" in plain
    drawn = re.sub(r"\x1b\[[0-9;]*m", "", coloured)
    assert drawn.splitlines()[:-1] == plain.splitlines()[:-1]  # the last line has the seconds


def test_race(command, golden):
    result = command("race", "--golden", "--prompt", PROMPT, "--max-tokens", 40)
    passes = len(lab.generate(golden, PROMPT, "dspark", max_tokens=40).rounds)
    assert result.exit_code == 0 and result.stderr == "" and "\x1b" not in result.stdout
    lines = [" ".join(line.strip("│").split()) for line in result.stdout.splitlines()]
    assert "tokens 40 40 the same, one for one" in lines
    assert f"passes 40 {passes} {40 / passes:.2f} tokens a pass" in lines
    assert any(re.fullmatch(r"seconds \d+\.\d\d \d+\.\d\d", line) for line in lines)
    assert any(re.fullmatch(r"tokens a second \d+ \d+ \d+\.\d\d times as fast", line) for line in lines)
    assert result.stdout.count("finished") == 2  # the last picture alone


def test_race_without_arguments(command, golden, monkeypatch):
    monkeypatch.setattr(lab, "load_pair", lambda *args, **options: golden)
    result = command("race", env=TERMINAL)
    assert result.exit_code == 0 and "the same, one for one" in result.stdout
    assert cli.HARDER in result.stdout


def test_race_that_chooses_its_own_draft_lengths(command, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    result = command("race", "--golden", "--prompt", PROMPT, "--max-tokens", 20, "--max-draft", "auto")
    assert result.exit_code == 0 and "the same, one for one" in result.stdout
    assert any(tmp_path.rglob("*.json"))  # what a round costs here is remembered


def test_race_above_temperature_0(command):
    result = command("race", "--golden", "--prompt", PROMPT, "--max-tokens", 20, "--temperature", 1, "--max-draft", 2)
    assert "the same law, not the same text" in " ".join(result.stdout.replace("│", "").split())
    assert "one for one" not in result.stdout


@pytest.mark.parametrize(
    "args, message",
    [
        (["generate", "--model", "nowhere", "--prompt", "x"], "'nowhere' is no folder on this machine"),
        (["generate", "--golden", "--prompt", ""], "the prompt is empty"),
        (["generate", "--golden", "--prompt", "x", "--max-draft", "soon"], "'soon' is neither a whole number nor"),
        (["generate", "--golden", "--prompt", "x", "--mode", "eagle3"], "it has baseline, lookup, dspark"),
        (["generate", "--golden", "--prompt", "x", "--max-tokens", "0"], "give a whole number of at least 1"),
        (["generate", "--golden", "--prompt", "x", "--max-tokens", "many"], "Invalid value for '--max-tokens'"),
        (["generate", "--golden", "--prompt", "x", "--temperature", "-1"], "temperature is -1.0"),
        (["generate", "--golden", "--prompt", "x", "--top-p", "0"], "top_p is 0.0"),
        (["generate", "--golden", "--prompt", "x", "--max-draft", "8"], "from 0 to 7"),
        (["race", "--golden", "--max-draft", "8"], "from 0 to 7"),
        (["race", "--golden", "--prompt", ""], "the prompt is empty"),
        (["race", "--nonsense"], "No such option: --nonsense"),
        (["train", "lab"], "Missing option '--out'; see: dspark-lab train lab --help"),
        (["nonsense"], "No such command 'nonsense'; see: dspark-lab --help"),
        (["export", "--model", "nowhere", "--out", "there"], "'nowhere' is no folder on this machine"),
    ],
)
def test_bad_input_is_a_sentence(command, args, message):
    result = command(*args)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("dspark-lab: ") and message in result.stderr


def test_failure_is_a_sentence(command, monkeypatch):
    def fail(*args, **options):
        raise RuntimeError("the disk is full")

    monkeypatch.setattr(lab, "load_pair", fail)
    result = command("generate", "--prompt", "x")
    assert (result.exit_code, result.stderr) == (1, "dspark-lab: RuntimeError: the disk is full\n")


@pytest.mark.parametrize("env", [PLAIN, TERMINAL])
def test_interruption_keeps_the_text(command, golden, monkeypatch, env):
    rounds = lab.generate(golden, PROMPT, "dspark", max_tokens=40).rounds[:3]

    def stream(*args, **options):
        yield from rounds
        raise KeyboardInterrupt

    monkeypatch.setattr(lab, "stream", stream)
    result = command("generate", "--golden", "--prompt", PROMPT, env={**env, "NO_COLOR": "1"})
    assert (result.exit_code, result.stderr) == (130, "")
    ribbon = Ribbon(golden.tokenizer.decode)
    shown = [r.text if env is PLAIN else ribbon.marked(r).plain for r in rounds]
    assert result.stdout.rstrip("\n") == "".join(shown).rstrip("\n")


def test_help_imports_nothing_heavy():
    """Every command's help, in a process of its own."""
    program = """
import sys
sys.argv[0] = "dspark-lab"
from typer.testing import CliRunner
from dspark_lab.cli import app
commands = "generate race pairs doctor export bench notebooks train".split()
for args in ([], *([name] for name in commands if name != "bench"), ["train", "lab"]):
    result = CliRunner().invoke(app, [*args, "--help"])
    assert result.exit_code == 0 and "Usage" in result.stdout, args
    assert args or all(name in result.stdout for name in commands)
print(*{"mlx_lm", "transformers", "torch", "scipy", "matplotlib", "pandas"} & sys.modules.keys())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("\n", "")


def test_pairs(command, lab_folder, monkeypatch):
    monkeypatch.setattr(dspark_lab.pair, "WEIGHTS", lab_folder)
    result = command("pairs", env={**PLAIN, "COLUMNS": "120"})
    assert result.exit_code == 0
    for words in (["target: 6 layers of 64", "vocabulary 128"], ["dspark", "vanilla Markov head and confidence head"]):
        assert any(all(word in line for word in words) for line in result.stdout.splitlines())
    assert all(mode in result.stdout for mode in lab.load_pair(lab_folder).modes)
    for known in PUBLISHED:
        assert known.converted in result.stdout and all(name in result.stdout for name in known.drafters.values())
    assert all(
        f"{source} " in result.stdout for source in ("mlx-dspark", "DSpark paper, 2026", "dflash-mlx, April 2026")
    )


def test_loading_options(command, golden, monkeypatch):
    """Generating and racing hand them on; what memory has to say comes as any other bad input."""
    seen = []
    monkeypatch.setattr(lab, "load_pair", lambda *args, **options: seen.append((args, options)) or golden)
    options = ("--mode", "dspark", "--drafter-bits", 4, "--dtype", "float16", "--force", "--max-tokens", 4)
    for name in ("generate", "race"):
        assert command(name, "--model", "a/b", "--drafter", "c/d", "--prompt", PROMPT, *options).exit_code == 0
    expected = (("a/b", ["c/d"], "dspark"), {"drafter_bits": 4, "dtype": "float16", "force": True})
    assert seen == [expected, expected]
    monkeypatch.undo()
    monkeypatch.setattr(memory, "available", lambda: (1000, "free here are"))
    result = command("generate", "--golden", "--prompt", PROMPT)
    assert result.exit_code == 2 and "free here are 0.0 GB" in result.stderr and "--force" in result.stderr


def test_doctor(command):
    """On this machine: device, memory, BLAS with a measured figure, versions, models."""
    result = command("doctor", env={**PLAIN, "COLUMNS": "200"})
    assert result.exit_code == 0
    rows = {line.split("  ")[0]: line for line in result.stdout.splitlines()}
    names = ("machine", "device", "memory", "Python", "packages", "lab pair", "Hub", "in its cache", "would fit")
    assert all(name in rows for name in names)
    assert "offline (HF_HUB_OFFLINE)" in rows["Hub"] and f"mlx {version('mlx')}" in rows["packages"]
    if mx.default_device() == mx.cpu:
        assert re.search(r"\d+ GFLOP/s in float32", rows["BLAS"])
        assert "all becomes float32" in result.stdout


@pytest.mark.parametrize(
    ("chip", "macos", "words"),
    [
        ("Apple M1 Pro", "14.6", ["no bfloat16 arithmetic", "macOS 14.6 may page", "12.0 of this Mac's 16.0 GB"]),
        ("Apple M4 Pro", "15.2", ["12.0 of this Mac's 16.0 GB", "iogpu.wired_limit_mb", "--max-draft"]),
    ],
)
def test_doctor_on_a_mac(monkeypatch, chip, macos, words):
    """What it says of Apple silicon, by chip and system."""
    info = {"max_recommended_working_set_size": 12e9, "memory_size": 16e9, "device_name": chip}
    monkeypatch.setattr(mx, "default_device", lambda: mx.gpu)
    monkeypatch.setattr(mx, "device_info", lambda: info)
    monkeypatch.setattr(mx.metal, "is_available", lambda: True)
    monkeypatch.setattr(doctor, "processor", lambda: chip)
    monkeypatch.setattr(platform, "mac_ver", lambda: (macos, ("", "", ""), "arm64"))
    reasons = " ".join(doctor.slow(1000))
    assert all(word in reasons for word in words)
    assert ("bfloat16" in reasons, "may page" in reasons) == (chip == "Apple M1 Pro",) * 2
    assert dict(doctor.facts(1000))["memory"] == "Metal recommends at most 12.0 GB"
    assert list(doctor.fitting())[:4] == ["Qwen3-4B 8-bit", "Qwen3-8B 8-bit", "Qwen3-14B 4-bit", "Gemma-4 12B 4-bit"]


def test_doctor_finds_a_slow_blas(monkeypatch):
    monkeypatch.setattr(mx, "default_device", lambda: mx.cpu)
    monkeypatch.setattr(doctor.sys, "platform", "linux")
    for blas, speed, words in (
        ("reference", 5, "reference BLAS, about forty"),
        ("openblas", 9, "Only 9 GFLOP/s"),
    ):
        monkeypatch.setattr(doctor.blas, "name", lambda blas=blas: blas)
        assert words in " ".join(doctor.slow(speed))
    assert "GFLOP/s" not in " ".join(doctor.slow(100))


def test_pairs_without_weights(command, tmp_path, monkeypatch):
    monkeypatch.setattr(dspark_lab.pair, "WEIGHTS", tmp_path)
    result = command("pairs")
    assert result.exit_code == 2 and "make them with `dspark-lab train lab --out DIR`" in result.stderr


def test_parameters_of_quantized_weights(lab_folder, golden_folder):
    """As many as before they were packed."""
    for mode, name in (("dspark", "dspark_vanilla"), ("dflash16", "zlab_dflash_b16")):
        whole = mx.load(str(golden_folder / name / "model.safetensors"))
        expected = sum(t.size for key, t in whole.items() if not key.startswith(("embed_tokens", "lm_head")))
        assert parameters([lab_folder / mode / "model.safetensors"], 8) == expected


def test_parameters_of_shards(tmp_path):
    """Whichever shard a weight's scales are in."""
    mx.save_safetensors(str(tmp_path / "1.safetensors"), {"a.weight": mx.zeros((3, 4), mx.uint32)})
    mx.save_safetensors(str(tmp_path / "2.safetensors"), {"a.scales": mx.zeros((3, 1)), "a.biases": mx.zeros((3, 1))})
    assert parameters(sorted(tmp_path.iterdir()), 8) == 3 * 4 * 4


def test_export(command, lab_folder, tmp_path):
    result = command("export", "--model", lab_folder, "--out", tmp_path / "new")
    folders = [tmp_path / "new" / name for name in ("dflash", "dflash16", "dspark", "eagle3", "target")]
    assert result.stdout.split() == [str(folder) for folder in folders]
    assert all((folder / "model.safetensors").is_file() for folder in folders)


def test_train_lab(command, tmp_path, monkeypatch):
    """The command hands its options on; the recipe has tests of its own."""
    called, recipe = [], ModuleType("dspark_lab.train.lab")
    recipe.train_lab = lambda out, tiny, text_dir: called.append((out, tiny, text_dir))
    monkeypatch.setitem(sys.modules, "dspark_lab.train.lab", recipe)
    assert command("train", "lab", "--out", tmp_path, "--tiny", "--text-dir", tmp_path / "text").exit_code == 0
    assert called == [(tmp_path, True, tmp_path / "text")]


def test_bench_is_mounted(command, monkeypatch):
    """With its own options and help; its bad input is reported like any other."""
    benchmarks, called = ModuleType("dspark_lab.bench.commands"), []
    benchmarks.app = typer.Typer(rich_markup_mode=None)
    benchmarks.app.callback()(lambda: None)

    @benchmarks.app.command()
    def speed(prompts: int = 20):
        called.append(prompts)

    monkeypatch.setitem(sys.modules, "dspark_lab.bench.commands", benchmarks)
    assert command("bench", "speed", "--prompts", 3).exit_code == 0 and called == [3]
    assert "speed" in command("bench", "--help").stdout
    assert "--prompts" in command("bench", "speed", "--help").stdout
    result = command("bench", "speed", "--prompts", "few")
    assert result.exit_code == 2 and "dspark-lab bench speed --help" in result.stderr


def test_notebooks_keep_what_the_reader_wrote(command, tmp_path, monkeypatch):
    original, copy, opened = tmp_path / "course", tmp_path / "copy", []
    (original / "exercises").mkdir(parents=True)
    (original / "00_race.ipynb").write_text("new")
    (original / "exercises" / "01.ipynb").write_text("new")
    copy.mkdir()
    (copy / "00_race.ipynb").write_text("mine")
    monkeypatch.setattr(course, "find_course", lambda: original)
    monkeypatch.setattr(subprocess, "call", lambda args: opened.append(args) or 0)
    assert command("notebooks", "--to", copy).exit_code == 0
    assert (copy / "00_race.ipynb").read_text() == "mine"
    assert (copy / "exercises" / "01.ipynb").read_text() == "new"
    assert opened == [[sys.executable, "-m", "jupyterlab", str(copy)]]


def test_notebooks_that_are_not_there_yet(command, monkeypatch):
    monkeypatch.setattr(course, "find_course", lambda: None)
    result = command("notebooks")
    assert result.exit_code == 1 and "clone the project" in result.stderr
