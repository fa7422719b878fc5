"""Serving an application with uvicorn until it is told to stop."""

import asyncio
import socket
import sys

import uvicorn

from dspark_lab.generate import encode_prompt
from dspark_lab.race import WARM_UP_TOKENS, warm_up
from dspark_lab.serve.app import make_app

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
GRACE = 10  # seconds that running requests have to finish at shutdown
ROUND = 5  # seconds that a round, after which a cancelled request ends, may take then


def run(pair, mode=None, *, host="127.0.0.1", port=8000, api_key=None, **options):
    """Serve ``pair`` at ``http://host:port`` until interrupted; ``options`` are those of ``make_app``.

    Requests that run at the end have ten seconds to finish, then they are cancelled. On a loopback address only that
    machine's own names are taken for the host. Raises ValueError for an address that cannot be had.
    """
    local = host in (*LOOPBACK, "::1")
    app = make_app(pair, mode, api_key=api_key, hosts=LOOPBACK if local else None, **options)
    listening = listen(host, port)
    mode = pair.resolve(mode)
    warm_up(pair, encode_prompt(pair, "A long time ago", chat=False), mode, {"max_tokens": WARM_UP_TOKENS})
    if not local and api_key is None:
        print(f"dspark-lab: {host} can be reached by others, and there is no --api-key", file=sys.stderr)
    name = f"[{host}]" if ":" in host else host
    print(f"{pair.name} ({mode}) is served at http://{name}:{listening.getsockname()[1]}/v1", flush=True)
    Server(app, GRACE).run(sockets=[listening])


class Server(uvicorn.Server):
    """uvicorn, which at its end lets requests run for ``grace`` seconds and then has the engine cancel them.

    So each client gets an answer, if only one that says so.
    """

    def __init__(self, app, grace, log_level="warning"):
        limit = grace + ROUND
        super().__init__(uvicorn.Config(app, log_level=log_level, timeout_graceful_shutdown=limit, server_header=False))
        self.engine, self.grace = app.state.engine, grace

    async def shutdown(self, sockets=None):
        """Stop listening, and wait for what runs."""
        ending = asyncio.get_running_loop().call_later(self.grace, self.engine.stop)
        await super().shutdown(sockets)
        ending.cancel()


def listen(host, port):
    """A socket that listens there; port 0 takes a free one."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen()  # from now on, so that who is told the address may come at once, and waits
    except OSError as error:
        raise ValueError(f"cannot listen at {host}:{port} ({error.strerror}); give another --host or --port") from error
    return listening
