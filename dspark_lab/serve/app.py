"""The application: its routes, its errors and what stands around them."""

import asyncio
import time
from contextlib import asynccontextmanager

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from dspark_lab.generate import make_schedule
from dspark_lab.serve import schema
from dspark_lab.serve.answer import ChatAnswer, TextAnswer
from dspark_lab.serve.engine import Engine
from dspark_lab.serve.guard import ApiError, Guard
from dspark_lab.serve.service import Service

MAX_BODY = 2**20  # bytes
ERRORS = {status: {"model": schema.ErrorBody, "description": "An error."} for status in ("4XX", "5XX")}
SENT = {"type": "object", "properties": {"data": {"type": "string"}}, "required": ["data"]}  # an event
STREAMED = {200: {"content": {"text/event-stream": {"schema": SENT}}, "description": "Whole, or streamed."}}
KEYED = APIRouter(prefix="/v1", responses=ERRORS)
OPEN = APIRouter(responses=ERRORS)


def make_app(
    pair,
    mode=None,
    *,
    max_draft=None,
    confidence_threshold=0.0,
    prefix_cache=None,
    queue=32,
    api_key=None,
    hosts=None,
    allow_origins=(),
    max_body=MAX_BODY,
):
    """The FastAPI application that serves ``pair``; its thread runs between the application's start and shutdown.

    ``mode``, ``max_draft``, ``confidence_threshold``: as for ``generate``, where a request names no mode. At most
    ``queue`` requests wait behind the one that is decoded. ``hosts``: the names that a Host header may have (None:
    any). ``allow_origins``: web pages that may use the server from a browser. ``max_body``: bytes of a request.
    ``app.state.engine`` is the Engine. Raises ValueError for options that do not fit.
    """
    if pair.tokenizer is None:
        raise ValueError(f"the pair {pair.name} has no tokenizer, so it cannot be served; add one to its folder")
    make_schedule(pair, mode, max_draft, confidence_threshold)
    engine = Engine(queue, prefix_cache)
    app = FastAPI(title="dspark-lab", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.engine, app.state.started = engine, int(time.time())
    decoding = {"max_draft": max_draft, "confidence_threshold": confidence_threshold}
    app.state.service = Service(pair, mode, engine, decoding)
    app.include_router(KEYED, dependencies=[Depends(HTTPBearer(auto_error=False))] if api_key else [])
    app.include_router(OPEN)
    app.add_exception_handler(ApiError, lambda request, error: error.response())
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_middleware(Guard, metrics=engine.metrics, hosts=hosts, api_key=api_key, max_body=max_body)
    if allow_origins:
        app.add_middleware(CORSMiddleware, allow_origins=list(allow_origins), allow_methods=["*"], allow_headers=["*"])
    return app


@asynccontextmanager
async def lifespan(app):
    """Start the engine; at the end cancel what it still does."""
    app.state.engine.start()
    yield
    app.state.engine.stop()
    await asyncio.to_thread(app.state.engine.join)


async def http_error(request, error):
    """A status that the framework raised, in OpenAI's shape."""
    return ApiError(error.status_code, str(error.detail), headers=error.headers).response()


async def invalid(request, error):
    """What is wrong with a body, at the deepest place where something is; what was given is not repeated."""
    wrong = [(place(each["loc"][1:], error.body), each["msg"]) for each in error.errors()]
    path, message = max(wrong, key=lambda found: len(found[0]))  # a union complains once for each of its types
    where = ".".join(map(str, path))
    return ApiError(400, f"{where or 'the body'}: {message}", "invalid_body", where or None).response()


def place(path, body):
    """A validation error's ``path`` without the types that it names: what is in ``body``, or is lacking there."""
    found = []
    for part in path:
        inside = isinstance(body, dict | list) and part in (body if isinstance(body, dict) else range(len(body)))
        if inside or (isinstance(body, dict) and part == path[-1]):
            found.append(part)
        body = body[part] if inside else body
    return found


@KEYED.post("/chat/completions", response_model=schema.ChatCompletion, responses=STREAMED)
async def chat_completions(body: schema.ChatRequest, request: Request):
    """Answer a conversation."""
    return await request.app.state.service.respond(request, body, ChatAnswer)


@KEYED.post("/completions", response_model=schema.TextCompletion, responses=STREAMED)
async def completions(body: schema.TextRequest, request: Request):
    """Continue a text."""
    return await request.app.state.service.respond(request, body, TextAnswer)


@KEYED.get("/models")
async def models(request: Request) -> schema.Models:
    """The names that ``model`` can have: the pair's, and one for each of its modes."""
    created = request.app.state.started
    return schema.Models(data=[schema.Model(id=name, created=created) for name in request.app.state.service.models])


@KEYED.get("/models/{name:path}")
async def model(name: str, request: Request) -> schema.Model:
    """One of them."""
    if name not in request.app.state.service.models:
        raise ApiError(404, "there is no such model here", "model_not_found", "model")
    return schema.Model(id=name, created=request.app.state.started)


@OPEN.get("/health")
async def health() -> schema.Health:
    """Whether the server is up."""
    return schema.Health()


@OPEN.get("/metrics", response_class=Response, responses={200: {"content": {CONTENT_TYPE_LATEST: {}}}})
async def metrics(request: Request):
    """Counters for Prometheus."""
    return Response(generate_latest(request.app.state.engine.metrics.registry), media_type=CONTENT_TYPE_LATEST)
