"""Authentication and limits: API keys, each with its own adapters, and limits per key."""

import hashlib
import hmac
import ipaddress
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tagi.errors import DataError, InputError
from tagi.serving.faults import ApiError

LOCAL = "local"
"""The owner of all adapters if no keys are used."""
METRICS = "metrics"
"""Name of the key that may read the metrics, which cover all keys."""
_NAME, _KEY = re.compile(r"[\w.-]{1,64}"), re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of the server.

    Args:
        body_bytes: Maximum size of a request body.
        body_seconds: Timeout for receiving a request body, in seconds.
        stall_seconds: Timeout for sending one part of an answer to a client that does not read it, in seconds.
        instruction_characters: Maximum length of an instruction with its demonstrations. The generator also has a limit
            in tokens.
        adapters_per_request: Maximum number of adapters in one request.
        adapters_per_key: Maximum number of adapters per key.
        concurrent_per_key: Maximum number of concurrent requests per key.
        waiting: Maximum number of queued requests, over all keys.
        refine_examples: Maximum number of labelled examples of a refinement.
        refine_steps: Maximum number of steps of a refinement.
        jobs_per_key: Maximum number of queued and running refinements per key.
    """

    body_bytes: int = 2**20
    body_seconds: float = 30.0
    stall_seconds: float = 60.0
    instruction_characters: int = 20_000
    adapters_per_request: int = 32
    adapters_per_key: int = 1000
    concurrent_per_key: int = 64
    waiting: int = 256
    refine_examples: int = 1000
    refine_steps: int = 1000
    jobs_per_key: int = 4


class Keys:
    """API keys. Only their digests are stored.

    Args:
        owners: The owner of each key, by the key's SHA-256. If empty, no key is needed.
    """

    def __init__(self, owners: dict[bytes, str] | None = None) -> None:
        self._owners = owners or {}

    @classmethod
    def from_file(cls, path: Path) -> "Keys":
        """Read a file with one key per line, `name:key` or the key only; empty lines and comments (`#`) are ignored.

        Adapters belong to the name, so a named key can be replaced. Adapters of a key without a name belong to the key.

        Raises `DataError` for any other line, for a duplicate name or key, and for a file without keys.
        """
        owners: dict[bytes, str] = {}
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: expected a text file of API keys, got: {error}") from error
        for number, line in enumerate(lines, start=1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            name, colon, key = line.strip().partition(":")
            if not colon:
                name, key = "", name
            if (colon and not _NAME.fullmatch(name)) or not _KEY.fullmatch(key):
                raise DataError(
                    f"{path}:{number}: expected NAME:KEY or KEY in visible ASCII characters, got another line"
                )
            digest = _digest(key)
            owner = f"key:{name}" if name else f"sha256:{digest.hex()[:32]}"
            if digest in owners or owner in owners.values():
                raise DataError(f"{path}:{number}: expected names and keys that differ, got one for the second time")
            owners[digest] = owner
        if not owners:
            raise DataError(f"{path}: expected an API key per line, got none")
        return cls(owners)

    def __bool__(self) -> bool:
        return bool(self._owners)

    def owner(self, authorization: str | None) -> str | None:
        """Return the owner that an `Authorization` header belongs to; None without a key or for an unknown one.

        Takes the same time for every key.
        """
        if not self:
            return LOCAL
        scheme, _, key = (authorization or "").partition(" ")
        given, found = _digest(key.strip()), None
        for digest, owner in self._owners.items():
            if hmac.compare_digest(digest, given):
                found = owner
        return found if scheme.lower() == "bearer" else None

    def may_read_metrics(self, owner: str | None) -> bool:
        """Return whether an owner may read the metrics."""
        return not self or owner == f"key:{METRICS}"


class Admission:
    """Counts the running requests of every owner."""

    def __init__(self, limits: Limits) -> None:
        self._most = limits.concurrent_per_key
        self._running: Counter[str] = Counter()

    @contextmanager
    def slot(self, owner: str) -> Iterator[None]:
        """Count a request while a `with` block runs. Raises `ApiError` (429) if the owner has reached the limit."""
        if self._running[owner] >= self._most:
            raise overloaded(f"expected at most {self._most} requests of a key at a time, got one more")
        self._running[owner] += 1
        try:
            yield
        finally:
            self._running[owner] -= 1
            if not self._running[owner]:
                del self._running[owner]


def overloaded(message: str, seconds: int = 1) -> ApiError:
    """Return the error (429) for a request that may be repeated after `seconds`."""
    headers = {"Retry-After": str(seconds)}
    return ApiError(429, message, type="rate_limit_error", code="rate_limit_exceeded", headers=headers)


def is_loopback(host: str) -> bool:
    """Return whether a host name or address, with or without a port, is a loopback one."""
    name = host.rpartition("]")[0].lstrip("[") if host.startswith("[") else host
    if not host.startswith("[") and host.count(":") == 1:
        name = host.partition(":")[0]
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def check_address(host: str, keys: Keys) -> None:
    """Raise `InputError` for an address that is not a loopback one if no keys are used."""
    if not keys and not is_loopback(host):
        raise InputError(f"--host: expected 127.0.0.1, or --keys FILE to listen where others can ask, got {host}")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
