"""Dependencies of routes: the service, and the owner of a request."""

from typing import Annotated, Any, cast

from fastapi import Depends, Request, Security
from fastapi.security import HTTPBearer

from tagi.serving.guard import OWNER
from tagi.serving.jobs import Jobs
from tagi.serving.service import Service

KEY = Security(HTTPBearer(auto_error=False, scheme_name="API key", description="Where the server uses keys."))
"""Declares API keys in the OpenAPI document. `Guard` checks them before a route is called."""


def _service(request: Request) -> Service:
    return cast(Service, request.app.state.service)


def _jobs(request: Request) -> Jobs:
    return cast(Jobs, request.app.state.jobs)


def _owner(request: Request) -> str:
    return cast(str, request.scope[OWNER])


AService = Annotated[Service, Depends(_service)]
SomeJobs = Annotated[Jobs, Depends(_jobs)]
Owner = Annotated[str, Depends(_owner)]

ERROR: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


def faults(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the error responses for the OpenAPI document: OpenAI's error object."""
    content = {"application/json": {"schema": ERROR}}
    every = (400, 401, 408, 413, 429, 503, *statuses)
    return {status: {"description": _WORDS[status], "content": content} for status in sorted(every)}


_WORDS = {
    400: "The request is not as it should be.",
    401: "The API key is missing or not known.",
    403: "The key has as many adapters as it may have.",
    404: "There is no such thing of this key.",
    408: "The body did not arrive in time.",
    413: "The body is too long.",
    429: "Too many requests; Retry-After says when to ask again.",
    503: "The engine or the disk cannot be used now.",
    507: "The disk is full; nothing was stored.",
}
