"""What a client is told of a fault: OpenAI's error object, one sentence each."""

import logging
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from tagi.errors import TagiError
from tagi.serving.protocol import EngineError, PromptError
from tagi.serving.store import DamagedAdapter, StorageError
from tagi.settings.faults import fault_sentence

INVALID, SERVER = "invalid_request_error", "server_error"
"""Types of faults: the request's, and the server's."""
ONE, SEVERAL = "one", "several"
"""The forms of a body that may be a list."""
_MOST = 500
"""Characters of a sentence about what a client sent."""
_log = logging.getLogger(__name__)


class ApiError(Exception):
    """A request that is refused.

    Args:
        status: HTTP status.
        message: A sentence: what was expected, what was given.
        type: OpenAI's type of the error.
        code: A word for programs.
        param: The part of the request that is at fault.
        headers: Further headers of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = INVALID,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error = {"message": message, "type": type, "param": param, "code": code}
        self.headers = dict(headers or {})

    def response(self) -> JSONResponse:
        """Return the answer."""
        return JSONResponse({"error": self.error}, self.status, self.headers)


def not_found(message: str, code: str = "not_found", param: str | None = None) -> ApiError:
    """Return the refusal (404) of what is not there, or another owner's."""
    return ApiError(404, message, code=code, param=param)


def as_api_error(error: Exception) -> ApiError:
    """Return what a client is told of an error. One that nobody foresaw is told without its text."""
    match error:
        case ApiError():
            return error
        case TagiError() | PromptError():
            return ApiError(400, _short(str(error)))
        case DamagedAdapter():
            return not_found(str(error), "damaged_adapter")
        case EngineError():
            return ApiError(
                503, _short(str(error)), type=SERVER, code="engine_unavailable", headers={"Retry-After": "5"}
            )
        case StorageError(full=full):
            code, status = ("disk_full", 507) if full else ("storage_unavailable", 503)
            return ApiError(status, f"nothing was stored: {error}", type=SERVER, code=code)
        case RequestValidationError():
            return _invalid(error.errors())
        case HTTPException(status_code=404):
            return not_found("expected an address of the API (GET /docs lists them), got another")
        case HTTPException(status_code=405):
            return ApiError(
                405, "expected another method for this address", code="method_not_allowed", headers=error.headers
            )
        case HTTPException():
            return ApiError(error.status_code, "expected a body of JSON in UTF-8, got another", code="invalid_body")
        case _:
            return ApiError(500, "the server failed; its log says where", type=SERVER, code="internal_error")


def tell(error: Exception) -> ApiError:
    """Return what a client is told of an error, and log one that nobody foresaw.

    The log has its place but not its text, which may quote what a client sent.
    """
    told = as_api_error(error)
    if told.status == 500:
        _log.error("%s\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
    return told


def add_handlers(app: FastAPI) -> None:
    """Let an app answer with these objects wherever a route or FastAPI itself raises."""

    def handle(request: Request, error: Exception) -> JSONResponse:
        return as_api_error(error).response()

    kinds: tuple[type[Exception], ...] = (ApiError, TagiError, PromptError, EngineError, StorageError, DamagedAdapter)
    for kind in (*kinds, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, handle)


def _invalid(faults: Sequence[Any]) -> ApiError:
    """The fault of a request that is not of the form it should have; the innermost where several forms are tried."""
    fault = dict(max(faults, key=lambda one: len(_keys(one))))
    if fault["type"] == "json_invalid":
        sentence = f"expected a body of JSON, got text that is none: {fault['ctx']['error']}"
        return ApiError(400, sentence, code="invalid_json")
    if isinstance(fault["input"], bytes):
        return ApiError(400, "expected a JSON body with the header Content-Type: application/json", code="invalid_body")
    where = _keys(fault)
    fault["loc"] = where or [_short(str(fault["loc"][-1])) if fault["type"] == "extra_forbidden" else "body"]
    return ApiError(400, _short(fault_sentence(fault)), code="invalid_value", param=".".join(where) or None)


def _keys(fault: Any) -> list[str]:
    """The keys that lead to a fault, without the names of the forms that were tried."""
    return [str(part) for part in fault["loc"] if isinstance(part, int) or (part.isidentifier() and part not in _KINDS)]


_KINDS = {"body", "query", "path", "header", "str", ONE, SEVERAL}
"""What the place of a fault has besides keys: where it was sent, and which of several forms was expected."""


def _short(sentence: str) -> str:
    """A sentence on one line that can be written as UTF-8, whatever a client sent."""
    line = " ".join(sentence.split()).encode("utf-8", "replace").decode("utf-8")
    return line if len(line) <= _MOST else f"{line[: _MOST - 3]}..."
