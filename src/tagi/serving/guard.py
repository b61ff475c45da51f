"""The ASGI middleware before the routes: keys, body limits, disconnected clients, logging and metrics."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import ExitStack
from typing import Any

from tagi.serving.access import Admission, Keys, Limits, is_loopback
from tagi.serving.faults import ApiError, tell
from tagi.serving.metrics import Metrics

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]
OWNER = "tagi.owner"
"""Key in a request's scope: its owner; None if a key is needed and missing."""
GUARDED = "/v1/"
"""Prefix of the paths that need a key."""
_CLIENT_LEFT = 499  # status in log and metrics, as in nginx
_SAFE = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
]
_log = logging.getLogger("tagi.serving.requests")


class Guard:
    """The outermost ASGI application. It never raises, and it logs neither keys nor client texts.

    A body is read completely before the routes are called. Work for a client that disconnects is cancelled.

    Args:
        app: The application with the routes.
        keys: The API keys.
        limits: The limits.
        metrics: Counts requests.
    """

    def __init__(self, app: App, keys: Keys, limits: Limits, metrics: Metrics) -> None:
        self._app = app
        self._keys = keys
        self._limits = limits
        self._metrics = metrics
        self._admission = Admission(limits)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, reply = time.monotonic(), _Reply(send, self._limits.stall_seconds)
        try:
            await self._answer(scope, receive, reply)
        except (ClientLeft, TimeoutError):
            reply.status = _CLIENT_LEFT
        except Exception as error:
            told = tell(error)
            if reply.status is None:
                told.headers["Connection"] = "close"
                await told.response()(scope, receive, reply)
        finally:
            self._note(scope, reply.status or _CLIENT_LEFT, time.monotonic() - begun)

    async def _answer(self, scope: MutableMapping[str, Any], receive: Receive, reply: "_Reply") -> None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        if not self._keys and not is_loopback(headers.get(b"host", "localhost")):
            # DNS rebinding: another site's host name can resolve to this machine.
            raise ApiError(
                403, "expected a request to this machine's own name, got one to another", code="forbidden_host"
            )
        owner = scope[OWNER] = self._keys.owner(headers.get(b"authorization"))
        with ExitStack() as stack:
            reply.before_end = stack.close  # the client may send the next request when it has the whole answer
            if scope["path"].startswith(GUARDED):
                if owner is None:
                    raise ApiError(
                        401,
                        "expected a known API key in the header Authorization: Bearer KEY",
                        type="authentication_error",
                        code="invalid_api_key",
                        headers={"WWW-Authenticate": "Bearer"},
                    )
                if scope["method"] == "POST":
                    stack.enter_context(self._admission.slot(owner))
            body = await self._body(headers.get(b"content-length"), receive)
            await _while_connected(self._app(scope, _replayed(body), reply), receive, reply)

    async def _body(self, length: str | None, receive: Receive) -> bytes:
        """Return the whole body. Raises `ApiError` if it is too long (413) or too slow (408)."""
        most = self._limits.body_bytes
        if length is not None and length.isdigit() and int(length[:20]) > most:
            raise _too_long(most)
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientLeft
                    body += message.get("body", b"")
                    if len(body) > most:
                        raise _too_long(most)
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError as error:
            seconds = self._limits.body_seconds
            raise ApiError(408, f"expected the whole body within {seconds:g} seconds", code="body_timeout") from error

    def _note(self, scope: MutableMapping[str, Any], status: int, seconds: float) -> None:
        """Log and count a request under its route, which contains no id."""
        route = getattr(scope.get("route"), "path", None) or "other"
        self._metrics.request(scope["method"] if route != "other" else "other", route, status, seconds)
        _log.info("%s %s %d %.3f s", scope["method"][:10], route, status, seconds)


class ClientLeft(Exception):
    """The client has disconnected."""


class _Reply:
    """Sends a response and tracks its state."""

    def __init__(self, send: Send, stall_seconds: float) -> None:
        self._send = send
        self._stall_seconds = stall_seconds
        self.status: int | None = None
        self.complete = False
        self.before_end: Callable[[], None] = lambda: None
        """Called before the last part is sent."""

    async def __call__(self, message: Message) -> None:
        """Send a message. Raises `TimeoutError` if the client does not read it."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": [*message.get("headers", []), *_SAFE]}
        last = message["type"] == "http.response.body" and not message.get("more_body", False)
        if last:
            self.before_end()
        async with asyncio.timeout(self._stall_seconds):
            await self._send(message)
        self.complete = last


def _replayed(body: bytes) -> Receive:
    """Return a `receive` callable that gives the application the body, and then blocks."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if messages:
            return messages.pop()
        await asyncio.get_running_loop().create_future()  # cancelled together with the task that awaits it
        raise AssertionError

    return receive


async def _while_connected(work: Awaitable[None], receive: Receive, reply: _Reply) -> None:
    """Run the work. If the client disconnects before the answer is complete, cancel it and raise `ClientLeft`."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done() and not reply.complete:
            working.cancel()
            await asyncio.wait((working,))
            raise ClientLeft
        await working
    finally:
        for task in (leaving, working):
            task.cancel()
        await asyncio.gather(leaving, working, return_exceptions=True)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _too_long(most: int) -> ApiError:
    return ApiError(413, f"expected a body of at most {most} bytes, got more", code="body_too_large")
