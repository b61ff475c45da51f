"""Replicas of an upstream server: round-robin selection, and skipping of replicas that failed."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field


@dataclass(eq=False)
class Replica:
    """One upstream server.

    Args:
        url: Its URL, without a path.
        fault: Why it is skipped; None if it works.
        failed_at: Time of the last failure, in seconds of the monotonic clock.
        unloads: Deleted adapters that it has not unloaded yet.
    """

    url: str
    fault: str | None = None
    failed_at: float = 0.0
    unloads: set[str] = field(default_factory=set)


class ReplicaError(Exception):
    """A replica gave an invalid response or none.

    Args:
        fault: Description of the failure.
        lasting: Whether the replica is skipped for a while. Otherwise only this request failed.
    """

    def __init__(self, fault: str, *, lasting: bool = True) -> None:
        super().__init__(fault)
        self.lasting = lasting


class Replicas:
    """All replicas, selected round-robin.

    Args:
        urls: Their URLs.
        retry_seconds: Seconds until a replica that failed is tried again.
    """

    def __init__(self, urls: Sequence[str], retry_seconds: float) -> None:
        self.all = [Replica(url.rstrip("/")) for url in urls]
        self.retry_seconds = retry_seconds
        self._next = 0

    def in_turn(self) -> Iterator[Replica]:
        """Yield the replicas that a request may try, each once. The next request starts with another one."""
        first = self._next
        self._next = (first + 1) % len(self.all)
        for replica in [*self.all[first:], *self.all[:first]]:
            if replica.fault is None or time.monotonic() - replica.failed_at >= self.retry_seconds:
                yield replica

    def failed(self, replica: Replica, fault: str) -> None:
        """Skip a replica for a while."""
        replica.fault, replica.failed_at = fault, time.monotonic()

    def faults(self) -> list[str]:
        """Return one sentence for each replica that is skipped."""
        return [f"{replica.url}: {replica.fault}" for replica in self.all if replica.fault is not None]
