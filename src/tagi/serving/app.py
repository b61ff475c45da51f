"""The HTTP application: routes that call a service, behind the guard."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from tagi import __version__
from tagi.serving.access import Keys
from tagi.serving.faults import add_handlers
from tagi.serving.guard import Guard
from tagi.serving.jobs import Jobs
from tagi.serving.routes import adapters, answers, status
from tagi.serving.service import Service

_ABOUT = (
    "Post an instruction, get an adapter, and use its id at once as a model's name in chats and completions, with any "
    "client of OpenAI's API."
)


class _Application(FastAPI):
    """An app whose OpenAPI document does not contain FastAPI's default error schema, which is never sent."""

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document."""
        if self.openapi_schema is None:
            document = super().openapi()
            for operations in document["paths"].values():
                for operation in operations.values():
                    operation["responses"].pop("422", None)
            for name in ("HTTPValidationError", "ValidationError"):
                document["components"]["schemas"].pop(name, None)
        return super().openapi()


@asynccontextmanager
async def application(service: Service, keys: Keys | None = None) -> AsyncIterator[Guard]:
    """Start a service and yield its ASGI application; close the service afterwards.

    Args:
        service: The service that the routes call.
        keys: The API keys. Without keys, only requests to loopback host names are accepted.

    Raises `EngineError` if the engine cannot be started.
    """
    app = _Application(title="tagi serve", description=_ABOUT, version=__version__, docs_url=None, redoc_url=None)
    app.router.redirect_slashes = False
    for routes in (status, adapters, answers):
        app.include_router(routes.router)
    add_handlers(app)
    app.state.service, app.state.jobs, app.state.keys = service, Jobs(service), keys or Keys()
    await service.start()
    try:
        yield Guard(app, app.state.keys, service.limits, service.metrics)
    finally:
        await app.state.jobs.close()
        await service.close()
