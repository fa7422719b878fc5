"""The server under OpenAI's own client: chats, completions, tools, thoughts, limits, errors, and who may ask."""

import asyncio
import json
import sys
import threading
from importlib import import_module
from types import SimpleNamespace

import httpx
import openai
import pytest
from fakes import AnsweringTarget, chat_tokenizer
from served import serve
from starlette.testclient import TestClient
from typer.testing import CliRunner

import dspark_lab as lab
from dspark_lab import cli
from dspark_lab.rollback import CannotRollBack
from dspark_lab.serve import make_app

QUESTION = [{"role": "user", "content": "Hi"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a town.",
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]},
    },
}
CLOCK = {"type": "function", "function": {"name": "get_time"}}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"town": "Køln \\ud800"}}\n</tool_call>'


def answer(prompt):
    """What the answering target says to a prompt's text."""
    thought = "Hm.</think>" if prompt.endswith("<think>") else ""
    if "[tool]" in prompt:
        return thought + "It is " + prompt.rpartition("[tool]")[2].partition("[")[0]
    if "break it" in prompt:
        return thought + '<tool_call>{"name": "get_weather", "arguments": {"to</tool_call> oh'
    if "another" in prompt:
        return thought + '<tool_call>{"name": "launch", "arguments": {}}</tool_call>'
    if "both" in prompt:
        return f"{thought}Let me see. {CALL} {CALL.replace('weather', 'time')}"
    if "[tools]" in prompt:
        return thought + CALL
    return thought + f"You said: {prompt.rpartition('[user]')[2].partition('[assistant]')[0]} ✓"


def answering(gate=None):
    """A Pair without weights that answers as above."""
    return lab.Pair(AnsweringTarget(answer, gate), {}, chat_tokenizer(), frozenset([256]), "answering")


@pytest.fixture(scope="module")
def talker():
    with serve(answering(), queue=64) as served:
        yield served


@pytest.fixture(scope="module")
def written(golden):
    """The golden pair, which has no chat template, with its prefix cache."""
    with serve(golden, prefix_cache=lab.PrefixCache(golden)) as served:
        yield served


def ask(served, messages=QUESTION, **options):
    """A chat completion, without thoughts unless asked for."""
    options.setdefault("extra_body", {"enable_thinking": False})
    return served.client.chat.completions.create(model="answering", messages=messages, **options)


def gather(chunks):
    """A streamed chat's message, finish reason and usage, put together as a client would."""
    message, reason, usage = {"content": "", "reasoning_content": "", "tool_calls": {}}, None, None
    for chunk in chunks:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            assert reason is None  # nothing comes after it
            delta = choice.delta.model_dump()
            message["content"] += delta.get("content") or ""
            message["reasoning_content"] += delta.get("reasoning_content") or ""
            for call in delta.get("tool_calls") or []:
                assert call["index"] not in message["tool_calls"]
                message["tool_calls"][call["index"]] = call["function"]
            reason = choice.finish_reason
    return message, reason, usage


def test_chat(talker):
    response = ask(talker)
    (choice,) = response.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == (
        "assistant",
        "You said: Hi ✓",
        "stop",
    )
    ids = chat_tokenizer().apply_chat_template(QUESTION, add_generation_prompt=True, enable_thinking=False)
    spoken = len("You said: Hi ✓".encode()) + 1
    usage = response.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (len(ids), spoken, len(ids) + spoken)
    assert response.model == "answering" and response.object == "chat.completion"
    report = response.x_dspark_lab
    assert report["mode"] == "lookup" and report["passes"] <= spoken
    assert report["mean_accepted_length"] == pytest.approx(spoken / report["passes"])


def test_async_and_streaming(talker):
    """Both at once: sixteen conversations stream side by side, and none gets a word of another's."""

    async def one(client, i):
        stream = await client.chat.completions.create(
            model="answering", messages=[{"role": "user", "content": f"number {i} 日本"}], stream=True,
            stream_options={"include_usage": True}, extra_body={"enable_thinking": i % 2 == 0},
        )  # fmt: skip
        return gather([chunk async for chunk in stream])

    async def every():
        async with openai.AsyncOpenAI(base_url=f"{talker.url}/v1", api_key="none", max_retries=0) as client:
            return await asyncio.gather(*(one(client, i) for i in range(16)))

    for i, (message, reason, usage) in enumerate(asyncio.run(every())):
        assert message["content"] == f"You said: number {i} 日本 ✓"
        assert message["reasoning_content"] == ("" if i % 2 else "Hm.")
        assert reason == "stop"
        thought = 0 if i % 2 else len("Hm.") + 1
        assert usage.completion_tokens == len(message["content"].encode()) + thought + 1


def test_stream_options(talker):
    """Usage comes in a chunk of its own, and only if it was asked for."""
    for options, expected in (({}, 0), ({"stream_options": {"include_usage": True}}, 1)):
        chunks = list(ask(talker, stream=True, **options))
        assert sum(chunk.usage is not None for chunk in chunks) == expected
        assert [chunk.choices for chunk in chunks].count([]) == expected
        assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_as_it_goes_over_the_wire(talker):
    body = {"messages": QUESTION, "stream": True, "enable_thinking": False}
    with httpx.stream("POST", f"{talker.url}/v1/chat/completions", json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = list(response.iter_lines())
    assert lines[-2:] == ["data: [DONE]", ""] and all(line.startswith("data: ") for line in lines[:-1:2])
    last = json.loads(lines[-4].removeprefix("data: "))
    assert last["choices"][0]["finish_reason"] == "stop" and last["x_dspark_lab"]["mode"] == "lookup"


def test_thinking(talker):
    """By default the template's own way; what was thought is not in the content."""
    message = ask(talker, extra_body={}).choices[0].message
    assert (message.reasoning_content, message.content) == ("Hm.", "You said: Hi ✓")


def test_tool_call_and_its_result(talker):
    """The model calls, the client answers, the model reads that."""
    response = ask(talker, tools=[WEATHER])
    (choice,) = response.choices
    assert choice.finish_reason == "tool_calls" and choice.message.content is None
    (call,) = choice.message.tool_calls
    assert call.function.name == "get_weather" and json.loads(call.function.arguments) == {"town": "Køln ?"}
    turns = [*QUESTION, choice.message.model_dump(exclude_none=True, exclude={"reasoning_content"})]
    result = {"role": "tool", "tool_call_id": call.id, "content": "fine"}
    response = ask(talker, [*turns, result], tools=[WEATHER])
    assert response.choices[0].message.content == "It is fine" and response.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("stream", [False, True])
def test_several_calls_among_text_and_thoughts(talker, stream):
    response = ask(talker, [{"role": "user", "content": "both"}], tools=[WEATHER, CLOCK], stream=stream, extra_body={})
    if stream:
        message, reason, _ = gather(response)
        names = [message["tool_calls"][i]["name"] for i in range(2)]
        content, thought = message["content"], message["reasoning_content"]
    else:
        (choice,) = response.choices
        names, reason = [call.function.name for call in choice.message.tool_calls], choice.finish_reason
        content, thought = choice.message.content, choice.message.reasoning_content
    assert (names, reason, thought) == (["get_weather", "get_time"], "tool_calls", "Hm.")
    assert content.split() == ["Let", "me", "see."]


@pytest.mark.parametrize("word", ["break it", "another"])
def test_what_is_no_call_stays_text(talker, word):
    """Broken JSON and functions that were not offered are what the model said, not calls."""
    (choice,) = ask(talker, [{"role": "user", "content": word}], tools=[WEATHER]).choices
    assert choice.message.tool_calls is None and choice.finish_reason == "stop"
    assert choice.message.content == answer(f"{word}")


def test_tool_choice(talker):
    """ "none" hides the tools, a name hides the others, and "required" opens the call for the model."""
    assert ask(talker, tools=[WEATHER], tool_choice="none").choices[0].message.content == "You said: Hi ✓"
    named = {"type": "function", "function": {"name": "get_time"}}
    prompts = []
    target, original = talker.app.state.service.pair.target, answer
    target.answer = lambda prompt: prompts.append(prompt) or '{"name": "get_time", "arguments": {}}</tool_call>'
    target.mark = chat_tokenizer().encode("[assistant]<tool_call>")
    try:
        (choice,) = ask(talker, tools=[WEATHER, CLOCK], tool_choice=named, extra_body={}).choices
    finally:
        target.answer, target.mark = original, chat_tokenizer().encode("[assistant]")
    assert choice.message.tool_calls[0].function.name == "get_time" and choice.finish_reason == "tool_calls"
    assert prompts[-1].endswith("[assistant]<tool_call>") and "get_weather" not in prompts[-1]
    for wrong in ({"tool_choice": "required"}, {"tools": [WEATHER], "tool_choice": named}):
        with pytest.raises(openai.BadRequestError, match="tool_choice"):
            ask(talker, **wrong)


def test_limits_and_stop(talker):
    assert ask(talker, max_tokens=3).choices[0].message.content == "You"
    assert ask(talker, max_tokens=9, max_completion_tokens=4).choices[0].finish_reason == "length"
    (choice,) = ask(talker, stop=["aid", ": "]).choices
    assert (choice.message.content, choice.finish_reason) == ("You s", "stop")
    message, reason, _ = gather(ask(talker, stop="Hi", stream=True))
    assert (message["content"], reason) == ("You said: ", "stop")


def test_parts_roles_and_unknown_fields(talker):
    turns = [{"role": "developer", "content": "Be brief."}]
    turns += [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    response = ask(talker, turns, extra_body={"enable_thinking": False, "whatever": 1}, user="me", n=1)
    assert response.choices[0].message.content == "You said: ab ✓"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("mode", ["baseline", "dspark", "eagle3"])
def test_completions_equal_the_offline_ones(golden, written, mode, stream):
    """Greedy and sampled, cold and warm."""
    for temperature in (0, 0, 0.8):
        options = {"max_tokens": 24, "temperature": temperature, "seed": 3, "top_p": 0.9}
        expected = lab.generate(golden, "def encode(self", mode, chat=False, **options)
        got = written.client.completions.create(
            model=f"target:{mode}", prompt="def encode(self", stream=stream, **options
        )
        text = "".join(chunk.choices[0].text for chunk in got) if stream else got.choices[0].text
        assert text == expected.text
        if not stream:
            assert got.usage.completion_tokens == len(expected.tokens)
            assert got.x_dspark_lab["mode"] == mode and got.x_dspark_lab["passes"] == len(expected.rounds)
    if not stream:
        assert got.usage.prompt_tokens_details.cached_tokens > 0


def test_completion_defaults(golden, written):
    """Sixteen tokens, at temperature 1, from a seed that is drawn and told, and with which it can be had again."""
    response = written.client.completions.create(model="target", prompt=golden.tokenizer.encode("def "))
    assert response.usage.completion_tokens <= 16
    seed = response.x_dspark_lab["seed"]
    again = lab.generate(golden, golden.tokenizer.encode("def "), max_tokens=16, temperature=1, seed=seed)
    assert again.text == response.choices[0].text


def test_models_and_health(written):
    names = [model.id for model in written.client.models.list()]
    assert names == ["target", *(f"target:{mode}" for mode in written.app.state.service.pair.modes)]
    assert written.client.models.retrieve("target:dspark").id == "target:dspark"
    assert httpx.get(f"{written.url}/health").json() == {"status": "ok"}
    for call in (lambda: written.client.models.retrieve("x"),
                 lambda: written.client.completions.create(model="x", prompt="a")):  # fmt: skip
        with pytest.raises(openai.NotFoundError) as raised:
            call()
        assert raised.value.code == "model_not_found"


BAD = {
    "no body": ("completions", b"", None),
    "no JSON": ("completions", b'{"prompt": ', None),
    "deep": ("completions", b'{"prompt":' + b"[" * 100_000, None),
    "not UTF-8": ("completions", b'{"prompt": "\xff"}', None),
    "half a character": ("completions", b'{"prompt": "\\ud800"}', "prompt"),
    "no number": ("completions", b'{"prompt": "a", "temperature": NaN}', "temperature"),
    "infinity": ("completions", b'{"prompt": "a", "temperature": 1e999}', "temperature"),
    "nearly cold": ("completions", b'{"prompt": "a", "temperature": 1e-30}', "temperature"),
    "negative": ("completions", b'{"prompt": "a", "temperature": -1}', "temperature"),
    "text for a number": ("completions", b'{"prompt": "a", "max_tokens": "5"}', "max_tokens"),
    "no tokens": ("completions", b'{"prompt": "a", "max_tokens": 0}', "max_tokens"),
    "huge seed": ("completions", b'{"prompt": "a", "seed": 1' + b"0" * 400 + b"}", None),
    "empty": ("completions", b'{"prompt": ""}', "prompt"),
    "unknown token": ("completions", b'{"prompt": [1, 99999999999999999999]}', None),
    "several choices": ("completions", b'{"prompt": "a", "n": 2}', "n"),
    "penalty": ("completions", b'{"prompt": "a", "presence_penalty": 0.5}', "presence_penalty"),
    "empty stop": ("completions", b'{"prompt": "a", "stop": [""]}', "stop.0"),
    "no messages": ("chat/completions", b'{"messages": []}', "messages"),
    "no role": ("chat/completions", b'{"messages": [{"content": "a"}]}', "messages.0.role"),
    "strange role": ("chat/completions", b'{"messages": [{"role": "king", "content": "a"}]}', "messages.0.role"),
    "picture": (
        "chat/completions",
        b'{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}',
        None,
    ),
    "no template": ("chat/completions", b'{"messages": [{"role": "user", "content": "a"}]}', None),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_requests(written, what):
    """400, in OpenAI's shape, with the field's name where it has one."""
    path, body, param = BAD[what]
    response = httpx.post(f"{written.url}/v1/{path}", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["type"] == "invalid_request_error"
    assert error["message"] and "Traceback" not in error["message"]
    if param is not None:
        assert error["param"] == param


def test_tools_that_the_model_does_not_know():
    """They are refused rather than ignored."""
    pair = answering()
    pair.tokenizer._tool_call_start = None
    with serve(pair) as served, pytest.raises(openai.BadRequestError, match="takes no tools"):
        ask(served, tools=[WEATHER])


def test_context_and_body_limits(written):
    with pytest.raises(openai.BadRequestError) as raised:
        written.client.completions.create(model="target", prompt="a b " * 400)
    assert raised.value.code == "context_length_exceeded" and "context is 512" in str(raised.value)
    full = written.client.completions.create(model="target", prompt=[40] * 500, max_tokens=100, temperature=0)
    assert full.usage.total_tokens <= 512 and full.choices[0].finish_reason in ("length", "stop")
    with pytest.raises(openai.APIStatusError) as raised:
        written.client.completions.create(model="target", prompt="a" * 2**20)
    assert raised.value.status_code == 413


def test_which_field_is_too_long(talker):
    """The error names what the endpoint has, ``messages`` or ``prompt``."""
    for path, field, value in (
        ("chat/completions", "messages", [{"role": "user", "content": "a" * 3000}]),
        ("completions", "prompt", "a" * 3000),
    ):
        error = httpx.post(f"{talker.url}/v1/{path}", json={field: value}).json()["error"]
        assert (error["code"], error["param"]) == ("context_length_exceeded", field)


def nested(depth):
    """JSON of so many objects within each other."""
    return '{"a":' * depth + "1" + "}" * depth


@pytest.mark.parametrize("depth", [300, 900, 5000, 30_000])
def test_deeply_nested_json(talker, depth):
    """Wherever it is put: what is too deep for a reader is the client's fault, a 400, and never the server's."""
    call = {"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": nested(depth)}}
    bodies = {
        "arguments": json.dumps({"messages": [*QUESTION, {"role": "assistant", "tool_calls": [call]}]}),
        "parameters": json.dumps({"messages": QUESTION, "tools": [WEATHER]}).replace(
            json.dumps(WEATHER["function"]["parameters"]), nested(depth)
        ),
        "field": json.dumps({"messages": QUESTION, "stop": "here"}).replace('"here"', nested(depth)),
        "message": json.dumps({"messages": [{"role": "user", "content": "here"}]}).replace('"here"', nested(depth)),
    }
    for where, body in bodies.items():
        headers = {"Content-Type": "application/json"}
        response = httpx.post(f"{talker.url}/v1/chat/completions", content=body, headers=headers)
        assert response.status_code == 400 or (response.status_code == 200 and depth < 1000), where
        assert response.status_code == 200 or response.json()["error"]["type"] == "invalid_request_error"


def test_a_body_that_hides_its_length(written):
    """Chunked, and larger than allowed: cut off when the limit is reached."""
    pieces = (b" " * 2**16 for _ in range(32))
    response = httpx.post(f"{written.url}/v1/completions", content=pieces, headers={"Content-Type": "application/json"})
    assert response.status_code == 413 and response.json()["error"]["type"] == "invalid_request_error"


def test_unknown_paths_and_methods(written):
    assert httpx.get(f"{written.url}/v2").json()["error"]["message"] == "Not Found"
    response = httpx.get(f"{written.url}/v1/completions")
    assert response.status_code == 405 and response.headers["allow"] == "POST" and "error" in response.json()


def test_api_key(caplog):
    """Asked for everywhere but at /health, and found in no log."""
    with serve(answering(), api_key="s3cret-ключ") as served:
        get = lambda path, key: httpx.get(served.url + path, headers={"Authorization": key.encode()}).status_code  # noqa: E731
        assert [get("/v1/models", key) for key in ("Bearer s3cret-ключ", "Bearer wrong", "s3cret-ключ", "")] == [
            200, 401, 401, 401]  # fmt: skip
        assert httpx.get(f"{served.url}/metrics").status_code == 401
        assert httpx.get(f"{served.url}/health").status_code == 200
        with pytest.raises(openai.AuthenticationError, match="missing or wrong"):
            openai.OpenAI(base_url=f"{served.url}/v1", api_key="wrong").models.list()
    assert "s3cret" not in caplog.text


def test_host_header():
    """A page that has its own name point to this machine gets nothing."""
    with serve(answering(), hosts=("127.0.0.1", "localhost", "[::1]")) as served:
        status = lambda host: httpx.get(f"{served.url}/v1/models", headers={"Host": host}).status_code  # noqa: E731
        assert [status(host) for host in ("localhost:80", "127.0.0.1", "[::1]:8000", "[::1]", "LocalHost")] == [200] * 5
        for host in ("evil.example", "localhost.evil.example", "", "[::1].x:1", "[::1]x", "localhost:80:80", "::1"):
            assert status(host) == 400, host


@pytest.mark.parametrize(("host", "expected"), [("127.0.0.1", 400), ("localhost", 400), ("0.0.0.0", 200)])
def test_the_host_header_is_checked_where_only_this_machine_can_ask(monkeypatch, capsys, host, expected):
    """What ``run`` makes of the address it is given; with others it has to trust whatever name they use for it."""
    apps, module = [], sys.modules["dspark_lab.serve.run"]
    server = lambda app, grace: SimpleNamespace(run=lambda sockets: apps.append(app) or sockets[0].close())  # noqa: E731
    monkeypatch.setattr(module, "Server", server)
    monkeypatch.setattr(module, "warm_up", lambda *arguments: None)
    module.run(answering(), host=host, port=0)
    assert TestClient(apps[0], base_url="http://evil.example").get("/health").status_code == expected
    assert TestClient(apps[0], base_url="http://127.0.0.1").get("/health").status_code == 200
    assert ("there is no --api-key" in capsys.readouterr().err) == (expected == 200)


def test_cross_origin():
    """No page may read an answer unless it is named."""
    origin = {"Origin": "http://page.example"}
    for allowed, expected in (((), None), (("http://page.example",), "http://page.example")):
        with serve(answering(), allow_origins=allowed) as served:
            response = httpx.get(f"{served.url}/v1/models", headers=origin)
            assert response.headers.get("access-control-allow-origin") == expected


def test_a_full_queue_sends_away(monkeypatch):
    """One decodes, one waits, the third is told when to come back; a client that leaves makes room."""
    gate = threading.Event()
    with serve(answering(gate), queue=1) as served:
        body = {"messages": QUESTION, "stream": True, "enable_thinking": False}
        url = f"{served.url}/v1/chat/completions"
        with httpx.stream("POST", url, json=body, timeout=30) as first:
            served.settle(lambda: served.engine.running)
            with httpx.stream("POST", url, json=body, timeout=30):
                assert len(served.engine.waiting) == 1
                with pytest.raises(openai.RateLimitError) as raised:
                    ask(served)
                assert int(raised.value.response.headers["retry-after"]) >= 1
                assert raised.value.code == "queue_full"
            served.settle(lambda: not served.engine.waiting)
            with httpx.stream("POST", url, json=body, timeout=30) as third:
                gate.set()
                assert all("[DONE]" in "".join(response.iter_lines()) for response in (first, third))
        counts = served.metrics()
    assert counts['dspark_lab_http_responses_total{route="/v1/chat/completions",status="429"}'] == 1
    assert counts['dspark_lab_generations_total{mode="lookup",outcome="cancelled"}'] == 1


@pytest.mark.parametrize("grace", [20, 0])
def test_shutdown(grace):
    """A request that runs is finished, or, when the time for that is over, cancelled; the thread ends either way."""
    gate, got = threading.Event(), []

    def client(url):
        got.append(httpx.post(url, json={"messages": QUESTION, "enable_thinking": False}, timeout=30))

    with serve(answering(gate), grace=grace) as served:
        asking = threading.Thread(target=client, args=(f"{served.url}/v1/chat/completions",))
        asking.start()
        served.settle(lambda: served.engine.running)
        served.server.should_exit = True
        threading.Timer(1.0, gate.set).start()
    asking.join(30)
    assert got[0].status_code == (200 if grace else 503)
    if grace:
        assert got[0].json()["choices"][0]["message"]["content"] == "You said: Hi ✓"
    else:
        assert got[0].json()["error"]["message"] == "the generation was cancelled"


def test_a_failure_inside_is_not_told(caplog, monkeypatch):
    """The client learns that it failed, the log learns why, and the next request is served."""
    with serve(answering()) as served:
        with monkeypatch.context() as patch:
            patch.setattr(served.app.state.service.pair.target, "answer", lambda prompt: 1 / 0)
            with pytest.raises(openai.InternalServerError, match="the generation failed") as raised:
                ask(served)
            with pytest.raises(openai.APIError, match="the generation failed"):
                list(ask(served, stream=True))
        assert "ZeroDivisionError" not in raised.value.response.text and "ZeroDivisionError" in caplog.text
        assert ask(served).choices[0].message.content == "You said: Hi ✓"
        counts = served.metrics()
    assert counts['dspark_lab_generations_total{mode="lookup",outcome="failed"}'] == 2
    assert counts['dspark_lab_http_responses_total{route="/v1/chat/completions",status="500"}'] == 1


def test_an_unforeseen_error_is_not_told(caplog, monkeypatch):
    with serve(answering()) as served:
        monkeypatch.setattr(served.app.state.service, "prepare", lambda body, kind: 1 / 0)
        response = httpx.post(f"{served.url}/v1/completions", json={"prompt": "a"})
    assert response.status_code == 500 and "ZeroDivisionError" not in response.text
    assert response.json()["error"]["type"] == "server_error" and "ZeroDivisionError" in caplog.text


def test_what_touches_the_model_happens_in_the_engines_thread(monkeypatch):
    """Another text may be in a pass, for which the target's layers are replaced."""
    pair, threads = answering(), []
    for name in ("new_cache", "forward"):
        real = getattr(pair.target, name)
        noted = lambda *a, real=real, **o: threads.append(threading.current_thread()) or real(*a, **o)  # noqa: E731
        monkeypatch.setattr(pair.target, name, noted)
    with serve(pair) as served:
        ask(served)
        list(ask(served, stream=True))
        assert set(threads) == {served.engine.thread}


def test_a_model_that_cannot_do_what_is_asked(monkeypatch, caplog):
    """Its reason is the client's to know, and no failure; plain decoding is served."""
    pair = answering()
    new_cache = pair.target.new_cache

    def refuse(rollback=True):
        if rollback:
            raise CannotRollBack("the target keeps entries that cannot be rolled back")
        return new_cache()

    monkeypatch.setattr(pair.target, "new_cache", refuse)
    with serve(pair) as served:
        with pytest.raises(openai.BadRequestError, match="cannot be rolled back"):
            ask(served)
        with pytest.raises(openai.APIError, match="cannot be rolled back"):
            list(ask(served, stream=True))
        body = {"model": "answering:baseline", "messages": QUESTION, "enable_thinking": False}
        response = httpx.post(f"{served.url}/v1/chat/completions", json=body).json()
        assert response["choices"][0]["message"]["content"] == "You said: Hi ✓"
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("options", [{}, {"max_draft": 2}, {"confidence_threshold": 0.5}, {"max_draft": 0}])
def test_decoding_options(golden, options):
    """The server's own go for the pair's name; a mode's own name decodes with that mode's defaults."""
    prompt, tokens = "class Codec(codecs.Codec):\n    def ", {"max_tokens": 40, "temperature": 0}
    own, default = (lab.generate(golden, prompt, "dspark", chat=False, **tokens, **o) for o in (options, {}))
    assert (len(own.rounds) == len(default.rounds)) == (not options)
    with serve(golden, "dspark", **options) as served:
        for name, expected in (("target", own), ("target:dspark", default)):
            got = served.client.completions.create(model=name, prompt=prompt, **tokens)
            assert got.choices[0].text == expected.text and got.x_dspark_lab["mode"] == "dspark"
            assert got.x_dspark_lab["passes"] == len(expected.rounds)
        drafted = sum(r.scheduled for result in (own, default) for r in result.rounds)
        assert served.metrics()['dspark_lab_drafted_tokens_total{mode="dspark"}'] == drafted


def test_max_draft_auto(golden, monkeypatch):
    """Costs are measured before the server starts, and the texts are what they always are."""
    costs = lab.Costs(draft=lambda n: 1.0, verify=lambda n: 4.0 + n, rest=lambda n: 0.1, longest=7)
    asked = []
    monkeypatch.setattr(sys.modules["dspark_lab.generate"], "measure_costs", lambda *a: asked.append(a) or costs)
    app = make_app(golden, "dspark", max_draft="auto")
    assert asked == [(golden, "dspark")]
    with TestClient(app) as client:
        body = {"prompt": "class Codec(codecs.Codec):", "max_tokens": 40, "temperature": 0}
        got = client.post("/v1/completions", json=body).json()
    expected = lab.generate(golden, body["prompt"], "dspark", chat=False, max_tokens=40, max_draft="auto")
    assert got["choices"][0]["text"] == expected.text
    assert got["x_dspark_lab"]["passes"] == len(expected.rounds)


def test_what_cannot_be_served(golden):
    with pytest.raises(ValueError, match="has no tokenizer, so it cannot be served"):
        make_app(lab.Pair(golden.target, {}, None, name="bare"))
    with pytest.raises(ValueError, match="max_draft is 99"):
        make_app(golden, "dspark", max_draft=99)


def test_the_commands_options_arrive(golden, monkeypatch, tmp_path):
    """Every one of them, at the place that it is for."""
    loaded, run, command = [], [], import_module("dspark_lab.serve.command")
    monkeypatch.setattr(lab, "load_pair", lambda *a, **o: loaded.append((a, o)) or golden)
    monkeypatch.setattr(command, "run", lambda *a, **o: run.append((a, o)))
    options = (
        "--model m --drafter d --drafter e --mode dflash --drafter-bits 8 --dtype float16 --force --host 0.0.0.0 "
        "--port 81 --api-key k --max-draft 2 --confidence-threshold 0.5 --queue 3 --cache-memory 5 --allow-origin o"
    )
    result = CliRunner().invoke(cli.app, ["serve", *options.split(), "--cache-folder", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert loaded == [(("m", ["d", "e"], "dflash"), {"drafter_bits": 8, "dtype": "float16", "force": True})]
    ((arguments, given),) = run
    cache = given.pop("prefix_cache")
    assert arguments[0] is cache.pair is golden and arguments[1] == "dflash"
    assert (cache.max_bytes, cache.shelf.root) == (5 * 2**20, tmp_path)
    assert given == {"host": "0.0.0.0", "port": 81, "api_key": "k", "allow_origins": ["o"], "max_draft": 2,
                     "confidence_threshold": 0.5, "queue": 3}  # fmt: skip


def test_command_line(monkeypatch):
    """Its help, bad options, and what it says where the extra is not installed."""
    runner = CliRunner()
    shown = runner.invoke(cli.app, ["serve", "--help"], env={"COLUMNS": "200"}, prog_name="dspark-lab")
    assert shown.exit_code == 0 and "Usage: dspark-lab serve" in shown.output and "--api-key" in shown.output
    assert runner.invoke(cli.app, ["serve", "--port", "99999"]).exit_code == 2
    monkeypatch.delitem(sys.modules, "dspark_lab.serve.command")
    monkeypatch.setitem(sys.modules, "dspark_lab.serve.run", None)
    missing = runner.invoke(cli.app, ["serve"])
    assert missing.exit_code == 2 and "needs the extra dspark-lab[serve]" in missing.output
