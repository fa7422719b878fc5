"""Serving an application with uvicorn until it is told to stop."""

import socket
import sys

import uvicorn

from dspark_lab.generate import encode_prompt
from dspark_lab.race import WARM_UP_TOKENS, warm_up
from dspark_lab.serve.app import make_app

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
GRACE = 10  # seconds that running requests have to finish at shutdown


def run(pair, mode=None, *, host="127.0.0.1", port=8000, api_key=None, **options):
    """Serve ``pair`` at ``http://host:port`` until interrupted; ``options`` are those of ``make_app``.

    Requests that run at the end have ten seconds to finish, then they are cancelled. On a loopback address only that
    machine's own names are taken for the host. Raises ValueError for an address that cannot be had.
    """
    local = host in (*LOOPBACK, "::1")
    app = make_app(pair, mode, api_key=api_key, hosts=LOOPBACK if local else None, **options)
    listening = listen(host, port)
    mode = pair.drafter(mode).mode
    warm_up(pair, encode_prompt(pair, "A long time ago", chat=False), mode, {"max_tokens": WARM_UP_TOKENS})
    if not local and api_key is None:
        print(f"dspark-lab: {host} can be reached by others, and there is no --api-key", file=sys.stderr)
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=GRACE, server_header=False)
    name = f"[{host}]" if ":" in host else host
    print(f"{pair.name} ({mode}) is served at http://{name}:{listening.getsockname()[1]}/v1", flush=True)
    uvicorn.Server(config).run(sockets=[listening])


def listen(host, port):
    """A socket that listens there; port 0 takes a free one."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        raise ValueError(f"cannot listen at {host}:{port} ({error.strerror}); give another --host or --port") from error
    return listening
