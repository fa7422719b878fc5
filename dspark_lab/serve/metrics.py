"""What /metrics says, in Prometheus's format. Each server has a registry of its own."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120)


class Metrics:
    """Counters that the guard (responses) and the engine (everything else) add to.

    ``outcome``: "complete", "cancelled" (the client went away, or the server was shut down) or "failed". Tokens are
    counted once their generation has ended, before its last piece is sent, so that a client that has its whole answer
    finds it counted.
    """

    def __init__(self, engine, prefix_cache=None):
        self.registry = CollectorRegistry()
        self.responses = self._counter("http_responses", "Responses begun.", "route", "status")
        self.generations = self._counter("generations", "Generations that have ended.", "mode", "outcome")
        self.prompt_tokens = self._counter("prompt_tokens", "Tokens of prompts.", "outcome")
        self.cached_tokens = self._counter("cached_tokens", "Prompt tokens that a kept cache held.", "outcome")
        self.completion_tokens = self._counter("completion_tokens", "Tokens generated.", "outcome")
        self.drafted = self._counter("drafted_tokens", "Tokens drafted and verified.", "mode")
        self.accepted = self._counter("accepted_tokens", "Of these, the tokens accepted.", "mode")
        self.passes = self._counter("target_passes", "Passes of the target that committed tokens.", "mode")
        self.first_token = self._histogram("first_token_seconds", "From a request's arrival to its first tokens.")
        self.whole = self._histogram("generation_seconds", "From a request's arrival to its last token.")
        self._gauge("queue_length", "Requests that wait.", lambda: len(engine.waiting))
        self._gauge("running", "Requests that are being decoded.", lambda: engine.running)
        if prefix_cache is not None:
            self._gauge("prefix_cache_texts", "Texts kept, in memory or on disk.", lambda: len(prefix_cache))
            self._gauge("prefix_cache_bytes", "Bytes of the caches in memory.", lambda: prefix_cache.nbytes)
            for name in vars(prefix_cache.counts):
                self._gauge(f"prefix_cache_{name}", "See PrefixCache.", lambda n=name: getattr(prefix_cache.counts, n))

    def generation(self, job, outcome):
        """Count a Job that has ended."""
        self.generations.labels(job.mode, outcome).inc()
        self.prompt_tokens.labels(outcome).inc(job.prompt_tokens)
        self.cached_tokens.labels(outcome).inc(job.cached_tokens)
        self.completion_tokens.labels(outcome).inc(sum(len(r.committed) for r in job.rounds))
        self.drafted.labels(job.mode).inc(sum(r.scheduled for r in job.rounds))
        self.accepted.labels(job.mode).inc(sum(r.accepted for r in job.rounds))
        self.passes.labels(job.mode).inc(len(job.rounds))
        if job.first_token_seconds is not None:
            self.first_token.observe(job.first_token_seconds)
        if outcome == "complete":
            self.whole.observe(job.seconds)

    def _counter(self, name, about, *labels):
        return Counter(f"dspark_lab_{name}", about, labels, registry=self.registry)

    def _histogram(self, name, about):
        return Histogram(f"dspark_lab_{name}", about, buckets=SECONDS, registry=self.registry)

    def _gauge(self, name, about, value):
        Gauge(f"dspark_lab_{name}", about, registry=self.registry).set_function(value)
