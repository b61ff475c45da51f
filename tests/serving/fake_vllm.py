"""A small server that does what vLLM does for us: it reads PEFT folders by the model's name and streams completions."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from tagi.adapters.merge import merge
from tagi.backbones.causal import CausalBackbone
from tagi.formats.peft import read_peft

MODEL = "the base model"
CONTEXT = 50


class FakeVllm:
    """What the server was asked, and how it fails.

    `fails` is None or one of "status" (500), "before" and "after" (the connection ends before or after the first
    event), "odd" (events that are none), "health" and "endless" (an answer without an end).
    """

    def __init__(self, backbone: CausalBackbone, folder: Path) -> None:
        self.backbone, self.folder = backbone, folder
        self.fails: str | None = None
        self.bodies: list[dict[str, Any]] = []
        self.unloaded: list[str] = []
        self.disconnected = threading.Event()
        self.url = ""
        self.app = FastAPI()
        self.app.get("/health")(self.health)
        self.app.get("/v1/models")(self.models)
        self.app.post("/v1/completions")(self.completions)
        self.app.post("/v1/unload_lora_adapter")(self.unload)

    async def health(self) -> Response:
        return Response(status_code=503 if self.fails == "health" else 200)

    async def models(self) -> dict[str, Any]:
        return {"data": [{"id": MODEL, "max_model_len": CONTEXT}]}

    async def unload(self, request: Request) -> Response:
        if self.fails == "health":
            raise RuntimeError
        self.unloaded.append((await request.json())["lora_name"])
        return Response(status_code=404)  # as of one that was never loaded

    async def completions(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        if self.fails == "status":
            return error(500, "no memory")
        model: Any = self.backbone.model
        if body["model"] != MODEL:
            if not (self.folder / body["model"]).is_dir():
                return error(404, f"The model `{body['model']}` does not exist.")
            model = merge(model, read_peft(self.folder / body["model"]))
        if len(body["prompt"]) + body["max_tokens"] > CONTEXT:
            return error(400, "too long")
        return StreamingResponse(self.events(model, body), media_type="text/event-stream")

    async def events(self, model: Any, body: dict[str, Any]) -> AsyncIterator[str]:
        if self.fails == "before":
            raise RuntimeError
        try:
            if self.fails == "odd":
                yield event({"error": {"message": "the engine is dead"}})
            ids = torch.tensor([body["prompt"]])
            mask = torch.ones_like(ids, dtype=torch.bool)
            found = self.backbone.viewed(model).generate(ids, mask, max_new_tokens=body["max_tokens"])[0].tolist()
            given = ""
            for count in range(1, len(found) + 1):
                text = self.backbone.tokenizer.decode(found[:count], skip_special_tokens=True)
                finish = None if count < len(found) else "length" if count == body["max_tokens"] else "stop"
                choice: dict[str, Any] = {"text": text[len(given) :], "finish_reason": finish}
                if "logprobs" in body:
                    top = {"w1": -2.0, "w2": -0.5, "w3": -3.0}
                    choice["logprobs"] = {
                        "tokens": [text[len(given) :]],
                        "token_logprobs": [-0.5],
                        "top_logprobs": [top],
                    }
                yield event({"choices": [choice], "usage": None})
                given = text
                if self.fails == "after":
                    raise RuntimeError
                while self.fails == "endless":
                    await asyncio.sleep(0.01)
            usage = {
                "prompt_tokens": len(body["prompt"]),
                "completion_tokens": len(found),
                "prompt_tokens_details": {"cached_tokens": 3},
            }
            yield event({"choices": [], "usage": usage})
            yield "data: [DONE]\n\n"
        except asyncio.CancelledError:
            self.disconnected.set()
            raise


def event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content)}\n\n"


def error(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": {"message": message, "type": "BadRequestError"}}, status)


@contextmanager
def serving(fake: FakeVllm) -> Iterator[FakeVllm]:
    """Run the server in a thread on a free port."""
    config = uvicorn.Config(fake.app, log_level="critical", lifespan="off", ws="none")
    server = uvicorn.Server(config)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        fake.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield fake
        finally:
            server.should_exit = server.force_exit = True
            thread.join()
