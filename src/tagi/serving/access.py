"""Who may ask, and how much: API keys with a namespace each, and limits."""

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
"""The owner of what is made where no keys are used."""
METRICS = "metrics"
"""Where keys are used, the name of the key that may read the metrics, which count what all keys do."""
_NAME, _KEY = re.compile(r"[\w.-]{1,64}"), re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class Limits:
    """What the server takes at most.

    Args:
        body_bytes: Size of a request's body.
        body_seconds: Seconds until a request's body is there.
        stall_seconds: Seconds that a client may leave a part of an answer unread.
        instruction_characters: Length of an instruction with its demonstrations; the generator has a limit in tokens.
        adapters_per_request: Adapters of one request.
        adapters_per_key: Adapters of a key.
        concurrent_per_key: Requests of a key at a time.
        waiting: Requests of all keys that wait for the engine.
        refine_examples: Labelled examples of a refinement.
        refine_steps: Steps of a refinement.
        jobs_per_key: Refinements of a key that wait or run.
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
    """API keys, of which only digests are kept.

    Args:
        owners: The owner of each key, by the key's SHA-256. Empty: nobody needs a key.
    """

    def __init__(self, owners: dict[bytes, str] | None = None) -> None:
        self._owners = owners or {}

    @classmethod
    def from_file(cls, path: Path) -> "Keys":
        """Read a file with a key per line, `name:key` or the key alone; empty lines and those after `#` do not count.

        The name is the key's namespace, so that a named key can be changed; without a name the key is its own.

        Raises `DataError` for a line that is neither, for a name or key that is there twice, and for no key at all.
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
        """Return whose an `Authorization` header is; None for no key or an unknown one.

        It takes as long for every key.
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
        """Return whether an owner may see what all of them do."""
        return not self or owner == f"key:{METRICS}"


class Admission:
    """Counts every owner's requests that are being answered."""

    def __init__(self, limits: Limits) -> None:
        self._most = limits.concurrent_per_key
        self._running: Counter[str] = Counter()

    @contextmanager
    def slot(self, owner: str) -> Iterator[None]:
        """Count a request while the body runs. Raises `ApiError` (429) if the owner has as many already."""
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
    """Return the refusal (429) of a request that may be sent again after so many seconds."""
    headers = {"Retry-After": str(seconds)}
    return ApiError(429, message, type="rate_limit_error", code="rate_limit_exceeded", headers=headers)


def is_loopback(host: str) -> bool:
    """Return whether a host's name or address, with or without a port, is this machine's own."""
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
    """Raise `InputError` for an address that others reach if no keys are used."""
    if not keys and not is_loopback(host):
        raise InputError(f"--host: expected 127.0.0.1, or --keys FILE to listen where others can ask, got {host}")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
