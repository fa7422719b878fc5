"""A Hub on this machine, for huggingface-hub's own client to talk to: repositories are folders."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

REVISION = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """Serves ``repositories`` (name -> folder); the names in ``gated`` are refused. A context manager.

    ``requests``: (method, path, headers) of all that was asked. ``cut``: names of files whose first answer breaks off
    half-way.
    """

    def __init__(self):
        self.repositories, self.gated, self.cut, self.requests = {}, set(), set(), []
        handler = type("Handler", (Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.server.server_close()

    def fetched(self):
        """The names of the files of which anything was sent."""
        return {path.rpartition("/")[2] for method, path, _ in self.requests if method == "GET" and "/resolve/" in path}


class Handler(BaseHTTPRequestHandler):
    """The few addresses that listing and downloading need."""

    def log_message(self, *args):
        """Quiet."""

    def do_GET(self):
        """Listings and files."""
        self.answer()

    def do_HEAD(self):
        """A file's size and hash."""
        self.answer()

    def answer(self):
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path, dict(self.headers)))
        name = "/".join(path.removeprefix("/api/models").strip("/").split("/")[:2])
        if name not in self.hub.repositories:
            return self.send(b"{}", 404, {"X-Error-Code": "RepoNotFound"})
        if name in self.hub.gated:
            return self.send(b"{}", 403, {"X-Error-Code": "GatedRepo"})
        folder = self.hub.repositories[name]
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        if "/resolve/" in path:
            return self.send_file(folder / path.partition("/resolve/")[2].partition("/")[2])
        if "/tree/" in path:
            listing = [{"type": "file", "path": str(file.relative_to(folder)), "size": file.stat().st_size,
                        "oid": etag(file)} for file in files]  # fmt: skip
        else:
            siblings = [{"rfilename": str(file.relative_to(folder)), "size": file.stat().st_size} for file in files]
            listing = {"id": name, "sha": REVISION, "siblings": siblings}
        return self.send(json.dumps(listing).encode(), 200, {"Content-Type": "application/json"})

    def send_file(self, file):
        """``file``, or the rest of it, or half of it where the hub is told to break off."""
        if not file.is_file():
            return self.send(b"", 404, {"X-Error-Code": "EntryNotFound"})
        content, headers, status = file.read_bytes(), {"X-Repo-Commit": REVISION, "ETag": f'"{etag(file)}"'}, 200
        if start := self.headers.get("Range"):
            first, _, last = start.removeprefix("bytes=").partition("-")
            headers["Content-Range"] = f"bytes {first}-{last or len(content) - 1}/{len(content)}"
            content, status = content[int(first) : int(last) + 1 if last else None], 206
        cut = self.command == "GET" and file.name in self.hub.cut
        self.hub.cut -= {file.name} if cut else set()
        return self.send(content, status, headers, len(content) // 2 if cut else None)

    def send(self, content, status, headers, sent=None):
        """Answer with ``content``, of which only ``sent`` bytes get through (None: all)."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[:sent])


def etag(file):
    """What names a file's content."""
    return hashlib.sha1(file.read_bytes()).hexdigest()
