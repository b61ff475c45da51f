"""Health, metrics, the web page and the API documentation."""

import json
from html import escape
from importlib import resources
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

from tagi.serving.faults import ApiError
from tagi.serving.guard import OWNER
from tagi.serving.routes.context import AService

router = APIRouter(tags=["server"])
_METHODS = ("get", "post", "delete")


@router.get("/health")
async def health() -> dict[str, str]:
    """Return that the server is running."""
    return {"status": "ok"}


@router.get("/ready", responses={503: {"description": "The engine cannot answer."}}, response_model=None)
async def ready(request: Request, service: AService) -> JSONResponse:
    """Return whether the engine can answer, possibly without some of its replicas.

    If keys are used, problems are shown to requests with a key only.
    """
    problems = list(await service.engine.healthy())
    able = len(problems) < service.engine.load().details.get("replicas", 1)
    shown = problems if request.scope[OWNER] is not None else []
    return JSONResponse({"status": "ready" if able else "not ready", "problems": shown}, 200 if able else 503)


@router.get("/metrics", response_class=PlainTextResponse, responses={403: {"description": "Not with this key."}})
async def metrics(request: Request, service: AService) -> Response:
    """Return metrics in Prometheus' text format. If keys are used, this needs the key with the name `metrics`."""
    if not request.app.state.keys.may_read_metrics(request.scope[OWNER]):
        raise ApiError(403, "expected the API key with the name metrics, got none or another", code="forbidden")
    return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/", include_in_schema=False)
async def page() -> HTMLResponse:
    """The web page."""
    return _html((resources.files("tagi") / "serving" / "page.html").read_text(encoding="utf-8"))


@router.get("/docs", include_in_schema=False)
async def documentation(request: Request) -> HTMLResponse:
    """The API documentation, without external resources."""
    document = request.app.openapi()
    sections = []
    for path, operations in document["paths"].items():
        for method in _METHODS:
            if method in operations:
                sections.append(_operation(method.upper(), path, operations[method]))
    schemas = document.get("components", {}).get("schemas", {})
    shown = "".join(f"<h3 id='{escape(name)}'>{escape(name)}</h3>{_code(schema)}" for name, schema in schemas.items())
    return _html(_PAGE.format(title=escape(document["info"]["title"]), operations="".join(sections), schemas=shown))


def _html(text: str) -> HTMLResponse:
    """Return a page with a content security policy that allows requests to this server only."""
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
    )
    return HTMLResponse(text, headers={"Content-Security-Policy": f"{policy}; base-uri 'none'; form-action 'none'"})


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    told = {name: operation[name] for name in ("parameters", "requestBody") if name in operation}
    answers = {status: answer.get("description", "") for status, answer in operation["responses"].items()}
    description = escape(operation.get("description", "")).replace("\n\n", "</p><p>")
    return (
        f"<section><h2><code>{method} {escape(path)}</code></h2><p>{description}</p>"
        f"<details><summary>Parameters and answers</summary>{_code({**told, 'responses': answers})}</details></section>"
    )


def _code(value: Any) -> str:
    return f"<pre>{escape(json.dumps(value, indent=2, ensure_ascii=False))}</pre>"


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
:root {{ color-scheme: light dark }}
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 56rem; margin: auto; padding: 1rem }}
h2 {{ font-size: 1.1rem; margin: 2rem 0 0 }} pre {{ overflow-x: auto; font-size: .8rem }}
</style></head><body><main><h1>{title}</h1>
<p>For programs: <a href="/openapi.json">openapi.json</a>. Give a key as <code>Authorization: Bearer KEY</code>.</p>
{operations}<h2>Bodies</h2>{schemas}</main></body></html>
"""
