"""How a request becomes a job, and its rounds a response, whole or streamed."""

import asyncio
import contextlib
import json
from contextlib import aclosing
from functools import partial

from fastapi.responses import StreamingResponse

import dspark_lab as lab
from dspark_lab.serve.engine import Job, QueueFull, Refused, Stopped
from dspark_lab.serve.guard import ApiError
from dspark_lab.serve.prompts import make_prompt, options


class Service:
    """A pair that answers requests, through an Engine.

    ``models``: name -> mode: the pair's own name stands for ``mode``, or its best, with the options ``decoding`` of
    ``stream``; and each mode has a name of its own.
    """

    def __init__(self, pair, mode, engine, decoding):
        self.pair, self.engine, self.decoding = pair, engine, decoding
        self.models = {pair.name: pair.resolve(mode)} | {f"{pair.name}:{each}": each for each in pair.modes}
        self.preparing, self.watchers = asyncio.Lock(), set()

    async def respond(self, request, body, kind):
        """The response to ``body`` with an answer of this ``kind``. Raises ApiError."""
        async with self.preparing:  # tokenizers are not made for several threads
            answer = await asyncio.to_thread(self.prepare, body, kind)
        rounds = self.begin(request, answer.job)
        if body.stream:
            usage = bool(body.stream_options and body.stream_options.include_usage)
            headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
            return StreamingResponse(events(answer, rounds, usage), media_type="text/event-stream", headers=headers)
        async with aclosing(rounds):
            async for r in rounds:
                answer.add(r)
        return answer.whole()

    def prepare(self, body, kind):
        """The empty Answer to ``body``, with its Job. Raises ApiError."""
        model = self.pair.name if body.model is None else body.model
        if model not in self.models:
            names = ", ".join(self.models)
            raise ApiError(404, f"there is no such model here; there are {names}", "model_not_found", "model")
        mode, settings, prompt = self.models[model], options(body), make_prompt(self.pair, body)
        own = self.decoding if model == self.pair.name else {}
        kept = self.engine.prefix_cache
        begin = partial(lab.stream, self.pair, prompt.ids, mode, prefix_cache=kept, **settings, **own)
        return kind(self.pair, prompt, model, settings, Job(begin, mode, len(prompt.ids)))

    def begin(self, request, job):
        """Queue ``job`` and return its rounds as they come; from now on the client is watched. Raises ApiError."""
        loop, arrived = asyncio.get_running_loop(), asyncio.Queue()
        job.deliver = lambda event: tell(loop, arrived, event)
        try:
            self.engine.submit(job)
        except QueueFull as full:
            headers = {"Retry-After": str(full.retry_after)}
            raise ApiError(429, "too many requests wait; try again later", "queue_full", headers=headers) from None
        except Stopped:
            raise ApiError(503, "the server is shutting down") from None
        watcher = asyncio.create_task(self.watch(request, job))
        self.watchers.add(watcher)
        watcher.add_done_callback(self.watchers.discard)
        return rounds_of(arrived)

    async def watch(self, request, job):
        """Cancel ``job`` when the client is gone. When all has been sent it looks gone too, which does no harm."""
        while (await request.receive())["type"] != "http.disconnect":
            pass
        self.engine.cancel(job)


def tell(loop, queue, event):
    """Put ``event`` into an asyncio ``queue`` from another thread, unless its ``loop`` is closed by now."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(queue.put_nowait, event)


async def rounds_of(arrived):
    """The Rounds that arrive in an asyncio queue, up to one with a finish_reason. Raises ApiError if none has it."""
    while True:
        event = await arrived.get()
        if isinstance(event, Stopped):
            raise ApiError(503, "the generation was cancelled")
        if isinstance(event, Refused):
            raise ApiError(400, str(event))
        if isinstance(event, Exception):
            raise ApiError(500, "the generation failed; the server's log says more")
        yield event
        if event.finish_reason:
            return


async def events(answer, rounds, include_usage):
    """A streamed answer as server-sent events."""
    for delta in answer.opening:
        yield sent(answer.chunk(delta))
    try:
        async with aclosing(rounds):
            async for r in rounds:
                for delta in answer.add(r):
                    yield sent(answer.chunk(delta))
    except ApiError as error:
        yield sent(error.body)
        return
    yield sent(answer.chunk(None, last=True))
    if include_usage:
        yield sent(answer.usage_chunk())
    yield "data: [DONE]\n\n"


def sent(data):
    """A server-sent event."""
    return f"data: {json.dumps(data)}\n\n"
