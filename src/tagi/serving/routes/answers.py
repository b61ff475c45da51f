"""Models, chats and completions in the form of OpenAI's API."""

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Path
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from tagi.serving.bodies import ChatBody, CompletionBody, SamplingBody
from tagi.serving.faults import ApiError, tell
from tagi.serving.openai_form import CompletionForm, Form
from tagi.serving.protocol import Message, Piece, Request, Sampling
from tagi.serving.routes.context import KEY, AService, Owner, faults
from tagi.serving.service import Service

router = APIRouter(prefix="/v1", tags=["OpenAI"], dependencies=[KEY])
_STREAMED: dict[int | str, Any] = {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}}


@router.get("/models", responses=faults())
async def models(service: AService, owner: Owner) -> dict[str, Any]:
    """List the base model and the key's adapters. Append `:alone` to a name to omit the instruction."""
    entries = [entry for entry in service.store.entries(owner) if entry.fault is None]
    base = service.engine.base_model
    return {"object": "list", "data": [_model(base), *(_model(one.id, int(one.created), base) for one in entries)]}


@router.get("/models/{model:path}", responses=faults(404))
async def model(
    service: AService, owner: Owner, model: Annotated[str, Path(description="The model's name.", max_length=500)]
) -> dict[str, Any]:
    """Describe a model."""
    adapter, _ = service.addressed(owner, model)
    base = service.engine.base_model
    return _model(base) if adapter is None else _model(model, int(service.entry(owner, adapter).created), base)


@router.post("/chat/completions", responses=faults(404) | _STREAMED, response_model=None)
async def chat(service: AService, owner: Owner, body: ChatBody) -> Response:
    """Answer a chat. For an adapter, send one user message with the input; its instruction is added."""
    adapter, alone = service.addressed(owner, body.model)
    messages = tuple(Message("system" if one.role == "developer" else one.role, one.text) for one in body.messages)
    if adapter is not None and [message.role for message in messages] != ["user"]:
        got = ", ".join(message.role for message in messages[:5]) + (", ..." if len(messages) > 5 else "")
        sentence = f"messages: expected one message of the user, since an adapter reads its own instruction, got: {got}"
        raise ApiError(400, sentence, code="unsupported_messages", param="messages")
    request = Request(messages, _sampling(service, body), adapter, alone)
    return await _answered(service, request, body, Form(body.model, body.top is not None))


@router.post("/completions", responses=faults(404) | _STREAMED, response_model=None)
async def complete(service: AService, owner: Owner, body: CompletionBody) -> Response:
    """Complete a raw text, without chat template and without the adapter's instruction."""
    adapter, alone = service.addressed(owner, body.model)
    request = Request(body.text, _sampling(service, body), adapter, alone)
    return await _answered(service, request, body, CompletionForm(body.model, body.top is not None))


def _sampling(service: Service, body: SamplingBody) -> Sampling:
    room = service.engine.context
    wanted = room if body.most_tokens is None else body.most_tokens
    if wanted > room:
        raise ApiError(
            400, f"max_tokens: expected at most {room}, got {wanted}", code="invalid_value", param="max_tokens"
        )
    return Sampling(wanted, body.temperature, body.top_p, body.seed, body.stops, body.top)


async def _answered(service: Service, request: Request, body: SamplingBody, form: Form) -> Response:
    """Return an answer, or a stream once its first piece is there. Earlier errors set the status of the response."""
    pieces = service.answer(request)
    if not body.stream:
        async with aclosing(pieces):
            return JSONResponse(form.whole([piece async for piece in pieces]))
    try:
        first = await anext(pieces)
    except BaseException:
        await pieces.aclose()
        raise
    counted = body.stream_options is not None and body.stream_options.include_usage
    return EventStream(first, pieces, form, counted)


class EventStream(Response):
    """Server-sent events with the parts of an answer."""

    media_type = "text/event-stream"

    def __init__(self, first: Piece, rest: AsyncGenerator[Piece], form: Form, counted: bool) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._first, self._rest = first, rest
        self._form = form
        self._counted = counted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the parts as they are generated, and close the answer in any case."""
        async with aclosing(self._rest), aclosing(self._events()) as events:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for event in events:
                await send({"type": "http.response.body", "body": f"data: {event}\n\n".encode(), "more_body": True})
            await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})

    async def _events(self) -> AsyncGenerator[str]:
        try:
            for part in self._form.first():
                yield self._written(part)
            last = self._first
            for part in self._form.parts(self._first):
                yield self._written(part)
            async for piece in self._rest:
                for part in self._form.parts(piece):
                    yield self._written(part)
                last = piece
            if self._counted:
                yield json.dumps(self._form.counted(last))
        except Exception as error:  # the status has been sent: report the error as an event
            yield json.dumps({"error": tell(error).error})

    def _written(self, part: dict[str, Any]) -> str:
        return json.dumps({**part, "usage": None} if self._counted else part)


def _model(id: str, created: int = 0, parent: str | None = None) -> dict[str, Any]:
    return {"id": id, "object": "model", "created": created, "owned_by": "tagi", "parent": parent}
