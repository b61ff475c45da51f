"""Error responses in the form of OpenAI's error object."""

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
"""Error types: errors of the request, and errors of the server."""
ONE, SEVERAL = "one", "several"
"""Names of the two schemas of a body that may be a list."""
_MOST = 500
"""Maximum length of a message about client input, in characters."""
_log = logging.getLogger(__name__)


class ApiError(Exception):
    """A request that is refused.

    Args:
        status: HTTP status.
        message: What was expected and what was given.
        type: OpenAI's error type.
        code: OpenAI's error code.
        param: The parameter that caused the error.
        headers: Additional response headers.
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
        """Return the response."""
        return JSONResponse({"error": self.error}, self.status, self.headers)


def not_found(message: str, code: str = "not_found", param: str | None = None) -> ApiError:
    """Return the error (404) for something that does not exist or belongs to another owner."""
    return ApiError(404, message, code=code, param=param)


def as_api_error(error: Exception) -> ApiError:
    """Convert an error to the one that the client gets. The text of an unexpected error is not included."""
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
    """Convert an error to the one that the client gets, and log it if it is unexpected.

    The log has the error's location but not its text, which may quote client input.
    """
    told = as_api_error(error)
    if told.status == 500:
        _log.error("%s\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
    return told


def add_handlers(app: FastAPI) -> None:
    """Register handlers, so that errors of routes and of FastAPI itself get these responses."""

    def handle(request: Request, error: Exception) -> JSONResponse:
        return as_api_error(error).response()

    kinds: tuple[type[Exception], ...] = (ApiError, TagiError, PromptError, EngineError, StorageError, DamagedAdapter)
    for kind in (*kinds, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, handle)


def _invalid(faults: Sequence[Any]) -> ApiError:
    """Return the message for an invalid request; the innermost error if several schemas were tried."""
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
    """Return the keys that lead to an error, without the names of the schemas that were tried."""
    return [str(part) for part in fault["loc"] if isinstance(part, int) or (part.isidentifier() and part not in _KINDS)]


_KINDS = {"body", "query", "path", "header", "str", ONE, SEVERAL}
"""Parts of an error's location that are not keys: where the value was sent, and the names of schemas."""


def _short(sentence: str) -> str:
    """Return a text as one line of valid UTF-8."""
    line = " ".join(sentence.split()).encode("utf-8", "replace").decode("utf-8")
    return line if len(line) <= _MOST else f"{line[: _MOST - 3]}..."
