"""Who may ask, and how much: host header, key and body size, checked before anything of a request is read.

One layer around the application, in plain ASGI. It also counts the responses that leave, its own among them, and stands
between a client and any error that nobody foresaw.
"""

import hmac
import logging
import re

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

log = logging.getLogger(__name__)
OPEN = ("/health",)  # needs no key
HOST = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(:\d*)?")


class ApiError(Exception):
    """What goes wrong on a request, in OpenAI's shape: ``status``, a message for people and a ``code`` for programs."""

    def __init__(self, status, message, code=None, param=None, headers=None):
        super().__init__(message)
        self.status, self.message, self.code, self.param, self.headers = status, message, code, param, headers

    @property
    def body(self):
        """The JSON object that the client gets."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self):
        """The whole response."""
        return JSONResponse(self.body, self.status, self.headers)


class Guard:
    """ASGI middleware.

    ``hosts``: names that the Host header may have (None: any), against DNS rebinding; ``api_key``: asked for as a
    bearer token (None: not asked for); ``max_body``: bytes of a request's body.
    """

    def __init__(self, app, *, metrics, hosts, api_key, max_body):
        self.app, self.metrics, self.hosts, self.max_body = app, metrics, hosts, max_body
        self.authorization = None if api_key is None else f"Bearer {api_key}".encode()

    async def __call__(self, scope, receive, send):
        """Pass a request on, or answer it with what is wrong with it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = []
        receive, send = self.limited(receive), self.counted(scope, send, begun)
        error = self.refusal(scope["path"], dict(scope["headers"]))
        try:
            await (error.response() if error else self.app)(scope, receive, send)
        except Exception:
            log.exception("a request failed")
            if not begun:
                await ApiError(500, "the server failed; its log says more").response()(scope, receive, send)

    def refusal(self, path, headers):
        """The ApiError that a request with these headers (bytes by lower-case name) deserves, or None."""
        if self.hosts is not None and host_name(headers.get(b"host", b"")) not in self.hosts:
            return ApiError(400, "the Host header names another host than this server", "invalid_host")
        if self.authorization is not None and path not in OPEN:
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, self.authorization):  # in constant time
                message = "the API key is missing or wrong; send it as `Authorization: Bearer KEY`"
                return ApiError(401, message, "invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        length = headers.get(b"content-length", b"0")
        return self.too_large() if not length.isdigit() or int(length) > self.max_body else None

    def too_large(self):
        """The ApiError for a body over the limit."""
        return ApiError(413, f"the request's body is larger than {self.max_body} bytes", "request_too_large")

    def limited(self, receive):
        """``receive``, which fails once more than ``max_body`` bytes have come (a body may not tell its length)."""
        received = 0

        async def counting():
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_body:
                raise HTTPException(413, self.too_large().message)
            return message

        return counting

    def counted(self, scope, send, begun):
        """``send``, which counts the response by route and status, and puts something into the list ``begun``."""

        async def counting(message):
            if message["type"] == "http.response.start":
                begun.append(True)
                route = getattr(scope.get("route"), "path", "none")
                self.metrics.responses.labels(route, str(message["status"])).inc()
            await send(message)

        return counting


def host_name(header):
    """The name in a Host header (bytes) without its port, "" if it is no such; an IPv6 address keeps its brackets."""
    found = HOST.fullmatch(header.decode("latin-1").strip().lower())
    return found[1] if found else ""
