"""The one thread that decodes, a job after another, and what it tells the event loop."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from dspark_lab.rounds import Round
from dspark_lab.serve.metrics import Metrics

log = logging.getLogger(__name__)


class QueueFull(Exception):
    """As many jobs wait as may. ``retry_after``: seconds after which another attempt is worth while."""

    def __init__(self, retry_after):
        super().__init__()
        self.retry_after = retry_after


class Stopped(Exception):
    """The client has gone, or the server shuts down."""


class Refused(Exception):
    """The model cannot do what was asked; says why."""


@dataclass(eq=False)
class Job:
    """One generation: ``begin``, a call of ``dspark_lab.stream`` still to be made; and what has come of it.

    ``begin`` is called in the engine's thread: while another text is in a pass, parts of the target are replaced, and
    nobody else may look at it. ``deliver`` is called there too, with every Round, the last of which has a
    finish_reason; or with an exception, after which nothing follows. ``cached_tokens``: how much of the prompt a kept
    cache held. ``created``: on ``time.perf_counter``.
    """

    begin: Callable[[], Iterator[Round]]
    mode: str
    prompt_tokens: int
    deliver: Callable[[Any], None] = lambda event: None
    rounds: list[Round] = field(default_factory=list)
    cached_tokens: int = 0
    created: float = field(default_factory=time.perf_counter)
    first_token_seconds: float | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def seconds(self):
        """Since the job was created."""
        return time.perf_counter() - self.created


class Engine:
    """Decodes jobs in the order of their arrival; at most ``capacity`` wait.

    MLX's streams belong to threads, so all that computes happens in this one. The target, and the prefix cache, are
    never in use by two texts at once.
    """

    def __init__(self, capacity, prefix_cache=None):
        self.capacity, self.prefix_cache = capacity, prefix_cache
        self.waiting, self.running, self.stopped = deque(), 0, False
        self.changed = threading.Condition()
        self.typical_seconds = 1.0  # that a job takes; a moving average
        self.metrics = Metrics(self, prefix_cache)
        self.thread = threading.Thread(target=self._run, name="dspark-lab engine", daemon=True)

    def start(self):
        """Begin to take jobs."""
        self.thread.start()

    def submit(self, job):
        """Queue a Job. Raises QueueFull or Stopped."""
        with self.changed:
            if self.stopped:
                raise Stopped
            if len(self.waiting) + self.running > self.capacity:
                raise QueueFull(retry_after=max(1, round(self.typical_seconds * len(self.waiting))))
            self.waiting.append(job)
            self.changed.notify()

    def cancel(self, job):
        """Let go of a job: one that waits leaves the queue, one that runs ends with its current round."""
        job.cancelled.set()
        with self.changed:
            waited = job in self.waiting
            if waited:
                self.waiting.remove(job)
        if waited:
            self.metrics.generation(job, "cancelled")
            job.deliver(Stopped())

    def stop(self):
        """Cancel everything; the thread ends with its current round. ``join`` waits for that."""
        with self.changed:
            self.stopped, left = True, list(self.waiting)
            self.changed.notify()
        for job in left:
            self.cancel(job)

    def join(self, timeout=10.0):
        """Wait for the stopped engine's thread, ``timeout`` seconds at most."""
        self.thread.join(timeout)

    def _run(self):
        while not self.stopped:
            self._turn()
        mx.clear_streams()  # this thread's own; MLX aborts the process at its exit otherwise

    def _turn(self):
        """Wait for the next job and decode it; return at once when the engine is stopped."""
        with self.changed:
            self.changed.wait_for(lambda: self.waiting or self.stopped)
            if self.stopped:
                return
            self.running, job = 1, self.waiting.popleft()
        self._decode(job)
        with self.changed:
            self.running = 0

    def _decode(self, job):
        try:
            with closing(self._begin(job)) as rounds:
                self._follow(job, rounds)
        except Exception as error:
            if not isinstance(error, Refused):
                log.exception("a generation failed")
            self.metrics.generation(job, "failed")
            job.deliver(error)

    def _begin(self, job):
        try:
            return job.begin()
        except ValueError as error:
            raise Refused(str(error)) from error

    def _follow(self, job, rounds):
        """Deliver ``rounds`` until they end or the job is cancelled; what ends is counted before it is delivered."""
        began, reused = time.perf_counter(), self._reused()
        for r in rounds:
            if not job.rounds:
                job.first_token_seconds, job.cached_tokens = job.seconds, self._reused() - reused
            job.rounds.append(r)
            if r.finish_reason:
                self.typical_seconds += 0.2 * (time.perf_counter() - began - self.typical_seconds)
                self.metrics.generation(job, "complete")
            job.deliver(r)
            if not r.finish_reason and (job.cancelled.is_set() or self.stopped):
                self.metrics.generation(job, "cancelled")
                job.deliver(Stopped())
                return

    def _reused(self):
        return self.prefix_cache.counts.reused_tokens if self.prefix_cache else 0
