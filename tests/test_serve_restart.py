"""kill -9, and what the next start finds: kept caches intact or thrown away, the answers right in any case."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

import dspark_lab as lab
from dspark_lab.prefix_cache import PrefixCache

GOLDEN = Path(__file__).parent / "golden"
PROMPT = "class Codec(codecs.Codec):\n    def encode(self, input):"
WRITER = """
import sys, dspark_lab as lab
pair = lab.load_pair(sys.argv[1], drafter=sys.argv[2])
cache = lab.PrefixCache(pair, folder=sys.argv[3], max_bytes=0)
for i in range(10**6):
    lab.generate(pair, [5 + i % 7, *range(30, 60)], max_tokens=8, prefix_cache=cache)
    print(i, flush=True)
"""


@contextmanager
def process(*command):
    """A Python process on this checkout; killed, if it still runs, when the context ends."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(GOLDEN.parents[1]), os.environ.get("PYTHONPATH", "")]),
    }
    running = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True, env=environment)
    try:
        yield running
    finally:
        running.kill()
        running.communicate()


@contextmanager
def served(folder):
    """``dspark-lab serve`` on the golden pair with its caches in ``folder``: ``(process, url)``."""
    run = "from dspark_lab.cli import main; main()"
    options = [
        "--model",
        GOLDEN / "target",
        "--drafter",
        GOLDEN / "dspark_vanilla",
        "--port",
        "0",
        "--cache-folder",
        folder,
    ]
    with process("-c", run, "serve", *map(str, options)) as running:
        line = running.stdout.readline()
        assert " is served at http://127.0.0.1:" in line, line
        url = line.split()[-1]
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                httpx.get(f"{url.removesuffix('/v1')}/health")
                break
            except httpx.TransportError:
                time.sleep(0.02)
        yield running, url


def body(prompt, **options):
    return {"prompt": prompt, "max_tokens": 30, "temperature": 0, **options}


def say(url, prompt):
    """A greedy completion and how many of the prompt's tokens a kept cache held."""
    got = httpx.post(f"{url}/completions", json=body(prompt), timeout=60).json()
    return got["choices"][0]["text"], got["usage"]["prompt_tokens_details"]["cached_tokens"]


@pytest.mark.parametrize("damaged", [False, True])
def test_kill_and_restart(tmp_path, damaged):
    """Killed in the middle of an answer, a server that starts again goes on from the disk, or begins anew."""
    pair = lab.load_pair(GOLDEN / "target", drafter=GOLDEN / "dspark_vanilla")
    offline = lambda prompt: lab.generate(pair, prompt, chat=False, max_tokens=30).text  # noqa: E731
    with served(tmp_path) as (running, url):
        text, cached = say(url, PROMPT)
        assert (text, cached) == (offline(PROMPT), 0)
        with httpx.stream("POST", f"{url}/completions", json=body("x = ", max_tokens=400, stream=True)) as response:
            next(response.iter_lines())
            running.send_signal(signal.SIGKILL)
            running.wait(20)
    files = list(tmp_path.glob("*/*.safetensors"))
    assert files
    if damaged:
        for file in files:
            with open(file, "r+b") as opened:
                opened.seek(-100, os.SEEK_END)
                opened.write(b"\x55" * 9)
    more = PROMPT + text + " pass\n"
    with served(tmp_path) as (_, url):
        text, cached = say(url, more)
        assert text == offline(more)
        assert (cached == 0) == damaged
        metrics = httpx.get(f"{url.removesuffix('/v1')}/metrics").text
        assert f"dspark_lab_prefix_cache_damaged {1.0 if damaged else 0.0}" in metrics
        assert say(url, more)[1] > 0


def killed_writers(folder, pair, kills, patience):
    """Kill a process that writes caches all the time, again and again; what is left is sound. Returns the hits."""
    draw, hits = random.Random(0), 0
    folders = map(str, (GOLDEN / "target", GOLDEN / "dspark_vanilla", folder))
    arguments = ["-c", WRITER, *folders]
    for _ in range(kills):
        with process(*arguments) as running:
            running.stdout.readline()
            time.sleep(draw.random() * patience)
            running.send_signal(signal.SIGKILL)
            running.wait(20)
        cache = PrefixCache(pair, folder=folder)
        prompt = [5 + draw.randrange(7), *range(30, 60), 9, 9]
        warm = lab.generate(pair, prompt, max_tokens=20, prefix_cache=cache)
        assert warm.tokens == lab.generate(pair, prompt, max_tokens=20).tokens
        assert not list(Path(folder).glob("*/unfinished-*"))
        assert cache.counts.damaged == 0  # a file has its name only when it is whole
        hits += cache.counts.hits
    return hits


def test_killed_while_writing(tmp_path):
    pair = lab.load_pair(GOLDEN / "target", drafter=GOLDEN / "dspark_vanilla")
    assert killed_writers(tmp_path, pair, 2, 0.3) > 0


@pytest.mark.exhaustive
def test_killed_while_writing_forty_times(tmp_path):
    pair = lab.load_pair(GOLDEN / "target", drafter=GOLDEN / "dspark_vanilla")
    assert killed_writers(tmp_path, pair, 40, 0.5) > 10


def test_a_port_that_is_taken(tmp_path):
    """Said in a sentence."""
    with served(tmp_path) as (_, url):
        port = url.split(":")[-1].removesuffix("/v1")
        run = "from dspark_lab.cli import main; main()"
        again = subprocess.run(
            [sys.executable, "-c", run, "serve", "--model", str(GOLDEN / "target"), "--port", port],
            capture_output=True, text=True, cwd=GOLDEN.parents[1], timeout=60,
        )  # fmt: skip
    assert again.returncode == 2 and f"cannot listen at 127.0.0.1:{port}" in again.stderr
    assert "Traceback" not in again.stderr and not json.dumps(again.stdout).count("served at")
