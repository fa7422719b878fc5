"""A server for tests: the application under uvicorn, in a thread, on a free port."""

import threading
import time
from contextlib import contextmanager

from openai import OpenAI

from dspark_lab.serve import make_app
from dspark_lab.serve.run import Server, listen


class Served:
    """``url``: where it is; ``engine``: its Engine; ``client``: the official client, without retries."""

    def __init__(self, app, server, port):
        self.app, self.server, self.engine = app, server, app.state.engine
        self.url, self.key = f"http://127.0.0.1:{port}", "no key"

    @property
    def client(self):
        return OpenAI(base_url=f"{self.url}/v1", api_key=self.key, max_retries=0)

    def metrics(self):
        """/metrics as a dict from name with labels to value."""
        import httpx

        text = httpx.get(f"{self.url}/metrics", headers={"Authorization": f"Bearer {self.key}"}).text
        lines = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in lines}

    def settle(self, condition, seconds=20):
        """Wait until ``condition()`` holds; fails if it does not in time."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "the server does not come to rest"
            time.sleep(0.005)

    def idle(self):
        """Whether nothing runs, waits or is being watched."""
        return not (self.engine.running or self.engine.waiting or self.app.state.service.watchers)


@contextmanager
def serve(pair, mode=None, grace=5, **options):
    """Serve ``pair`` for the length of the context, which ends with a clean shutdown."""
    app = make_app(pair, mode, **options)
    listening = listen("127.0.0.1", 0)
    server = Server(app, grace, log_level="error")
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        deadline = time.monotonic() + 20
        while not server.started:
            assert time.monotonic() < deadline and thread.is_alive(), "the server does not start"
            time.sleep(0.005)
        served = Served(app, server, listening.getsockname()[1])
        served.key = options.get("api_key") or served.key
        yield served
    finally:
        server.should_exit = True
        thread.join(30)
        listening.close()
        assert not thread.is_alive() and not app.state.engine.thread.is_alive()
