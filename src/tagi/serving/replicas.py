"""Replicas of an upstream server: whose turn it is, and which are left out because they failed."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field


@dataclass(eq=False)
class Replica:
    """One upstream server.

    Args:
        url: Its address, without a path.
        fault: Why it is left out; None for one that works.
        failed_at: When it failed last, in seconds of the monotonic clock.
        unloads: Adapters that it still has to unload.
    """

    url: str
    fault: str | None = None
    failed_at: float = 0.0
    unloads: set[str] = field(default_factory=set)


class ReplicaError(Exception):
    """A replica did not answer as it should; the message says what it did.

    Args:
        fault: What it did.
        lasting: Whether it is left out for a while. Otherwise only this request failed.
    """

    def __init__(self, fault: str, *, lasting: bool = True) -> None:
        super().__init__(fault)
        self.lasting = lasting


class Replicas:
    """All replicas, which take turns.

    Args:
        urls: Their addresses.
        retry_seconds: A replica that failed is tried again after so many seconds.
    """

    def __init__(self, urls: Sequence[str], retry_seconds: float) -> None:
        self.all = [Replica(url.rstrip("/")) for url in urls]
        self.retry_seconds = retry_seconds
        self._next = 0

    def in_turn(self) -> Iterator[Replica]:
        """Yield the replicas that a request may try, each once; the next request begins with another one."""
        first = self._next
        self._next = (first + 1) % len(self.all)
        for replica in [*self.all[first:], *self.all[:first]]:
            if replica.fault is None or time.monotonic() - replica.failed_at >= self.retry_seconds:
                yield replica

    def failed(self, replica: Replica, fault: str) -> None:
        """Leave a replica out for a while."""
        replica.fault, replica.failed_at = fault, time.monotonic()

    def faults(self) -> list[str]:
        """Return a sentence for each replica that is left out."""
        return [f"{replica.url}: {replica.fault}" for replica in self.all if replica.fault is not None]
