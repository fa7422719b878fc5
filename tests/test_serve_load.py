"""Many clients at once: every answer whole and the offline one, nothing left behind by those that go away."""

import gc
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import mlx.core as mx
import pytest
from served import serve

import dspark_lab as lab
from dspark_lab.serve.engine import Job

TEXTS = ["def encode(self, input):", "class Codec(codecs.Codec):\n    def ", "import codecs\n\n", "return "]


def requests_of(pair, count, max_tokens):
    """``count`` bodies for /v1/completions, greedy and sampled, in all modes, whole and streamed, many alike."""
    draw = random.Random(1)
    bodies = []
    for _ in range(count):
        text = draw.choice(TEXTS)
        bodies.append({
            "model": f"{pair.name}:{draw.choice(pair.modes)}",
            "prompt": text + draw.choice(TEXTS)[: draw.randrange(0, 9)],
            "max_tokens": draw.randrange(1, max_tokens),
            "temperature": draw.choice([0, 0.7]),
            "seed": draw.randrange(3),
            "stream": draw.random() < 0.5,
        })  # fmt: skip
    return bodies


def offline(pair, bodies):
    """The Result of each body, by itself; equal ones are computed once."""
    known = {}
    for body in bodies:
        options = {name: body[name] for name in ("max_tokens", "temperature", "seed")}
        place = (body["model"], body["prompt"], *options.values())
        if place not in known:
            known[place] = lab.generate(pair, body["prompt"], body["model"].split(":")[1], chat=False, **options)
        yield known[place]


def send(client, body):
    """What one client saw: ``(text, usage, finish_reason)``."""
    if not body["stream"]:
        response = client.completions.create(**body)
        return response.choices[0].text, response.usage, response.choices[0].finish_reason
    text, usage, reason = "", None, None
    for chunk in client.completions.create(**body, stream_options={"include_usage": True}):
        for choice in chunk.choices:
            text, reason = text + choice.text, choice.finish_reason or reason
        usage = chunk.usage or usage
    return text, usage, reason


def compare(pair, served, bodies, clients):
    """Send ``bodies`` from so many clients; every answer is the offline one, and /metrics has just what they saw."""
    with ThreadPoolExecutor(clients) as pool:
        seen = list(pool.map(lambda body: send(served.client, body), bodies))
    expected = list(offline(pair, bodies))
    assert [(text, reason) for text, _, reason in seen] == [(r.text, r.finish_reason) for r in expected]
    assert [usage.completion_tokens for _, usage, _ in seen] == [len(r.tokens) for r in expected]
    assert [usage.prompt_tokens for _, usage, _ in seen] == [r.prompt_tokens for r in expected]
    served.settle(served.idle)
    counts, usages = served.metrics(), [usage for _, usage, _ in seen]
    complete = '{outcome="complete"}'
    assert counts[f"dspark_lab_completion_tokens_total{complete}"] == sum(u.completion_tokens for u in usages)
    assert counts[f"dspark_lab_prompt_tokens_total{complete}"] == sum(u.prompt_tokens for u in usages)
    cached = sum(u.prompt_tokens_details.cached_tokens for u in usages)
    assert (
        counts[f"dspark_lab_cached_tokens_total{complete}"] == cached == counts["dspark_lab_prefix_cache_reused_tokens"]
    )
    assert counts['dspark_lab_http_responses_total{route="/v1/completions",status="200"}'] == len(bodies)
    assert counts["dspark_lab_generation_seconds_count"] == len(bodies)
    assert counts["dspark_lab_first_token_seconds_count"] == counts["dspark_lab_prefix_cache_lookups"] == len(bodies)
    for mode in {body["model"].split(":")[1] for body in bodies}:
        own = [result for body, result in zip(bodies, expected) if body["model"].split(":")[1] == mode]
        rounds, label = [r for result in own for r in result.rounds], f'{{mode="{mode}"}}'
        assert counts[f'dspark_lab_generations_total{{mode="{mode}",outcome="complete"}}'] == len(own)
        assert counts[f"dspark_lab_target_passes_total{label}"] == len(rounds)
        assert counts[f"dspark_lab_drafted_tokens_total{label}"] == sum(r.scheduled for r in rounds)
        assert counts[f"dspark_lab_accepted_tokens_total{label}"] == sum(r.accepted for r in rounds)
    by_mode = [value for name, value in counts.items() if name.startswith("dspark_lab_generations_total")]
    assert sum(by_mode) == len(bodies)
    assert cached > 0


def test_two_hundred_requests_from_sixteen_clients(golden):
    with serve(golden, prefix_cache=lab.PrefixCache(golden, max_bytes=20_000_000), queue=16) as served:
        compare(golden, served, requests_of(golden, 200, 16), 16)


@pytest.mark.exhaustive
def test_two_hundred_requests_from_sixteen_clients_to_the_lab_pair():
    pair = lab.load_pair()
    with serve(pair, prefix_cache=lab.PrefixCache(pair, max_bytes=200_000_000), queue=16) as served:
        compare(pair, served, requests_of(pair, 200, 24), 16)


def vanish(url, body, after):
    """Read ``after`` events of a stream, or of none wait a moment for an answer, and go away."""
    if not body["stream"]:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(url, json=body, timeout=httpx.Timeout(30, read=0.05))
        return
    with httpx.stream("POST", url, json=body, timeout=30) as response:
        events = response.iter_lines()
        for _ in range(2 * after):
            next(events)


def vanish_all(served, count, monkeypatch):
    """``count`` clients, eight at a time, go away at different moments; returns, for each generation that ended so, how
    many rounds it still did afterwards."""
    url, late = f"{served.url}/v1/completions", []
    cancel = type(served.engine).cancel

    def noted(engine, job):
        cancel(engine, job)
        late.append((job, len(job.rounds)))

    with monkeypatch.context() as patch, ThreadPoolExecutor(8) as pool:
        patch.setattr(type(served.engine), "cancel", noted)
        bodies = ({"prompt": TEXTS[i % 4], "max_tokens": 400, "temperature": 0.9, "seed": i, "stream": i % 5 > 0}
                  for i in range(count))  # fmt: skip
        list(pool.map(lambda body: vanish(url, body, body["seed"] % 4), bodies))
        served.settle(served.idle, seconds=60)
    return [len(job.rounds) - then for job, then in late if not (job.rounds and job.rounds[-1].finish_reason)]


def test_fifty_clients_that_vanish(golden, monkeypatch):
    """Their generations stop within a round; jobs, threads and memory are as before, and the server still answers."""
    cache = lab.PrefixCache(golden, max_bytes=6_000_000)
    forward = golden.target.forward
    monkeypatch.setattr(golden.target, "forward", lambda *a: time.sleep(0.005) or forward(*a))  # none ends by itself
    with serve(golden, "baseline", prefix_cache=cache, queue=64) as served:
        assert all(rounds <= 1 for rounds in vanish_all(served, 10, monkeypatch))
        memory, threads = steady(cache)
        stopped = vanish_all(served, 50, monkeypatch)
        assert len(stopped) == 50 and all(rounds <= 1 for rounds in stopped)
        counts = served.metrics()
        assert counts['dspark_lab_generations_total{mode="baseline",outcome="cancelled"}'] == 60
        assert counts["dspark_lab_running"] == counts["dspark_lab_queue_length"] == 0
        assert cache.nbytes <= cache.max_bytes and cache.counts.damaged == 0
        memory_after, threads_after = steady(cache)
        assert memory_after <= memory + 1_000_000 and threads_after <= threads + 2
        del stopped
        gc.collect()
        assert not served.server.server_state.tasks  # no request is still being answered
        assert sum(isinstance(thing, Job) for thing in gc.get_objects()) == 0
        monkeypatch.setattr(golden.target, "forward", forward)
        got = served.client.completions.create(model="target", prompt=TEXTS[0], max_tokens=20, temperature=0)
        assert got.choices[0].text == lab.generate(golden, TEXTS[0], "baseline", chat=False, max_tokens=20).text


def steady(cache):
    """MLX's memory without what ``cache`` holds, in bytes, and the number of threads."""
    gc.collect()
    return mx.get_active_memory() - cache.nbytes, threading.active_count()
