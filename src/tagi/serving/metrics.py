"""Metrics in Prometheus' text format."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from tagi.serving.protocol import Engine, Piece
from tagi.serving.store import AdapterStore

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Counters of one server, and gauges that are read on request."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "tagi_requests", "Requests that were answered.", ("method", "route", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "tagi_request_seconds",
            "Seconds until an answer had ended.",
            ("route",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._tokens = Counter("tagi_tokens", "Tokens of prompts and answers.", ("kind",), registry=self.registry)
        self._first = Histogram(
            "tagi_first_token_seconds", "Seconds to the first token.", buckets=_SECONDS, registry=self.registry
        )

    def watch(self, engine: Engine, store: AdapterStore) -> None:
        """Add gauges for an engine's load and a store's size."""
        self.registry.register(_Gauges(engine, store))

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def first_token(self, seconds: float) -> None:
        """Count the first token of an answer."""
        self._first.observe(seconds)

    def answered(self, piece: Piece) -> None:
        """Count the tokens that the last piece of an answer reports."""
        self._tokens.labels("prompt").inc(piece.prompt_tokens)
        self._tokens.labels("cached").inc(piece.cached_tokens)
        self._tokens.labels("generated").inc(piece.generated_tokens)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class _Gauges:
    """Reads an engine's load and a store's size."""

    def __init__(self, engine: Engine, store: AdapterStore) -> None:
        self._engine = engine
        self._store = store

    def collect(self) -> Iterator[Metric]:
        """Return the gauges."""
        load = self._engine.load()
        yield GaugeMetricFamily("tagi_running", "Requests that are being answered.", load.running)
        yield GaugeMetricFamily("tagi_waiting", "Requests that wait.", load.waiting)
        yield GaugeMetricFamily("tagi_adapters", "Adapters that are stored.", self._store.count())
        yield GaugeMetricFamily(
            "tagi_damaged_adapters", "Adapters that were set aside.", self._store.count(damaged=True)
        )
        details = GaugeMetricFamily(
            "tagi_engine", "What else the engine reports, its cache for one.", labels=["detail"]
        )
        for name, value in load.details.items():
            if isinstance(value, int | float):
                details.add_metric([name], float(value))
        yield details
