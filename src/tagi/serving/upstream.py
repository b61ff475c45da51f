"""The upstream engine: vLLM servers generate the answers, and load adapters as PEFT folders.

Prompts are encoded here and sent as token ids. They have the same tokens as in the embedded engine, and control tokens
that a user types stay ordinary text; vLLM's own chat endpoint would treat them as control tokens.
"""

import asyncio
import json
import re
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx2

from tagi.errors import ConfigError, TagiError, first_line
from tagi.files import new_folder
from tagi.formats.peft import CONFIG, WEIGHTS, LoraConfiguration
from tagi.formats.records import AdapterRecord
from tagi.formats.task_adapter import generator_digest
from tagi.hypernetwork.model import GeneratorModel
from tagi.serving.completions import Completion, error_of, events
from tagi.serving.prompts import PromptEncoder
from tagi.serving.protocol import EngineError, Load, Piece, PromptError, Request
from tagi.serving.replicas import Replica, ReplicaError, Replicas

_PROMPT_FAULTS = (400, 413, 422)
"""Status codes that say that the request is at fault."""


class UpstreamEngine:
    """An `Engine` that uses one or several vLLM servers with the generator's base model.

    The servers load adapters from a shared folder with vLLM's `lora_filesystem_resolver`. Replicas are used in turn. A
    replica that fails is skipped for a while; a request that it has not started to answer is sent to another replica.

    Args:
        urls: URLs of the servers, such as `http://10.0.0.7:8000`.
        adapter_dir: Folder from which the servers load adapters.
        upstream_model: Name of the base model in vLLM.
        generator: The generator of the adapters.
        retry_seconds: Seconds for which a replica that failed is skipped.
        answer_seconds: Timeout until an answer starts or continues, in seconds.

    Raises `ConfigError` without a URL, and for a generator whose adapters have parts other than LoRA.
    """

    def __init__(
        self,
        urls: Sequence[str],
        adapter_dir: str | Path,
        upstream_model: str,
        generator: GeneratorModel,
        *,
        retry_seconds: float = 10.0,
        answer_seconds: float = 300.0,
    ) -> None:
        if not urls:
            raise ConfigError("expected the address of an upstream server, got none")
        _check_generator(generator)
        self.generator = generator
        self._folder, self._model = Path(adapter_dir), upstream_model
        self._replicas = Replicas(urls, retry_seconds)
        self._encoder = PromptEncoder(generator, generator.backbone.max_tokens)
        self._digest = ""
        self._instructions: dict[str, list[int]] = {}
        """The token ids of every adapter's instruction; empty where inputs are read without it."""
        timeout = httpx2.Timeout(answer_seconds, connect=min(5.0, answer_seconds))
        self._client = httpx2.AsyncClient(timeout=timeout, limits=httpx2.Limits(max_connections=None))
        self._running = 0

    @property
    def base_model(self) -> str:
        """Model name of the base model, as in vLLM."""
        return self._model

    @property
    def context(self) -> int:
        """Maximum number of tokens of prompt and answer together."""
        return self._encoder.context

    async def start(self) -> None:
        """Check the running replicas. Others may start later.

        Raises `EngineError` for a server with another model, and for a folder that cannot be created.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EngineError(f"cannot make the folder for adapters: {error}") from error
        self._digest = await asyncio.to_thread(generator_digest, self.generator)
        await asyncio.gather(*map(self._look, self._replicas.all))

    async def close(self) -> None:
        """Close all connections, which ends running requests."""
        await self._client.aclose()

    async def add(self, adapter: str, folder: Path) -> None:
        """Export an adapter's LoRA to the shared folder, under its id.

        Raises `EngineError` for an adapter that is damaged or of another generator, and if it cannot be written.
        """
        try:
            self._instructions[adapter] = await asyncio.to_thread(self._export, adapter, folder)
        except (TagiError, OSError) as error:
            raise EngineError(f"cannot give adapter {adapter} to the servers: {error}") from error

    async def remove(self, adapter: str) -> None:
        """Unload an adapter from the servers. Servers that do not respond unload it when they are back."""
        if self._instructions.pop(adapter, None) is None:
            return
        await asyncio.to_thread(shutil.rmtree, self._folder / adapter, ignore_errors=True)
        for replica in self._replicas.all:
            replica.unloads.add(adapter)
        await asyncio.gather(*map(self._unload, self._replicas.all))

    async def stream(self, request: Request) -> AsyncIterator[Piece]:
        """Stream the answer to a prompt. Closing the iterator also ends the request on its server.

        Raises `PromptError` for an invalid prompt, and `EngineError` if no replica answers or an answer stops.
        """
        body = await asyncio.to_thread(self._body, request)
        self._running += 1
        faults = []
        try:
            for replica in self._replicas.in_turn():
                begun = False
                try:
                    async with aclosing(self._pieces(replica, body)) as pieces:
                        async for piece in pieces:
                            begun = True
                            yield piece
                    return
                except ReplicaError as error:
                    if error.lasting:
                        self._replicas.failed(replica, str(error))
                    faults.append(str(error))
                    if begun:
                        raise EngineError(f"the upstream server stopped answering: {error}") from error
            reasons = "; ".join(dict.fromkeys(faults)) or "all have failed a moment ago"
            raise EngineError(f"no upstream server answers: {reasons}")
        finally:
            self._running -= 1

    def load(self) -> Load:
        """Return the numbers of running requests and of skipped replicas."""
        failed = len(self._replicas.faults())
        return Load(self._running, 0, {"replicas": len(self._replicas.all), "failed_replicas": failed})

    async def healthy(self) -> Sequence[str]:
        """Check every replica, and return one sentence for each that has a problem."""
        await asyncio.gather(*map(self._probe, self._replicas.all))
        return self._replicas.faults()

    async def _pieces(self, replica: Replica, body: dict[str, Any]) -> AsyncGenerator[Piece, None]:
        """Stream the answer of one replica. Raises `PromptError` if it rejects the prompt, else `ReplicaError`."""
        try:
            async with self._client.stream("POST", f"{replica.url}/v1/completions", json=body) as response:
                if response.status_code != 200:
                    status, message = response.status_code, error_of(await response.aread())
                    if status in _PROMPT_FAULTS:
                        raise PromptError(message)
                    raise ReplicaError(f"status {status}: {message}", lasting=status >= 500)
                replica.fault = None
                completion = Completion(body.get("logprobs"))
                async for event in events(response):
                    piece = completion.add(event)
                    if piece is not None:
                        yield piece
                yield completion.last()
        except httpx2.HTTPError as error:
            raise ReplicaError(_reason(error)) from error

    def _body(self, request: Request) -> dict[str, Any]:
        """Return the body for `/v1/completions`, with all parameters that a generation config could change."""
        instruction: list[int] = []
        if request.adapter is not None:
            if request.adapter not in self._instructions:
                raise PromptError(f"expected the id of an adapter, got {request.adapter!r}")
            if not (request.alone or isinstance(request.prompt, str)):
                instruction = self._instructions[request.adapter]
        ids, sampling = [*instruction, *self._encoder.encode(request, alone=not instruction)], request.sampling
        body: dict[str, Any] = {
            "model": request.adapter or self._model,
            "prompt": ids,
            "max_tokens": self._encoder.room(request, len(ids)),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "stop": [stop for stop in sampling.stop if stop],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if sampling.seed is not None:
            body["seed"] = sampling.seed % 2**63
        if sampling.logprobs is not None:
            body["logprobs"] = sampling.logprobs
        return body

    def _export(self, adapter: str, folder: Path) -> list[int]:
        """Write an adapter's PEFT folder, and return the token ids of its instruction."""
        if not re.fullmatch(r"[\w-]+", adapter):
            raise ValueError(f"expected an id that names a folder, got {adapter!r}")
        record = AdapterRecord.read(folder)
        if record.generator != self._digest:
            raise ConfigError(f"expected an adapter of the generator {self._digest}, got one of {record.generator}")
        LoraConfiguration.read(folder)
        config = json.loads((folder / CONFIG).read_bytes()) | {"base_model_name_or_path": self._model, "revision": None}
        written = json.dumps(config, indent=2, sort_keys=True) + "\n"
        target = self._folder / adapter / CONFIG
        if not target.is_file() or target.read_text(encoding="utf-8") != written:
            # vLLM may read the folder at any time, so it appears by renaming.
            with new_folder(self._folder / adapter, overwrite=True) as temporary:
                shutil.copyfile(folder / WEIGHTS, temporary / WEIGHTS)
                (temporary / CONFIG).write_text(written, encoding="utf-8")
        if record.alone or not self.generator.settings.adapts_prefix:
            return []
        return self.generator.text.instruction(record.instruction, record.examples, truncate=True)

    async def _look(self, replica: Replica) -> None:
        """Check that a replica serves the model, and read its context length."""
        try:
            found = (await self._client.get(f"{replica.url}/v1/models", timeout=5)).raise_for_status().json()["data"]
            models = {str(model["id"]): model for model in found}
        except (httpx2.HTTPError, ValueError, KeyError, TypeError) as error:
            self._replicas.failed(replica, _reason(error))
            return
        if self._model not in models:
            raise EngineError(f"expected the model {self._model!r} at {replica.url}, got {', '.join(models) or 'none'}")
        longest = models[self._model].get("max_model_len")
        self._encoder.context = min(self._encoder.context, longest or self._encoder.context)

    async def _probe(self, replica: Replica) -> None:
        try:
            (await self._client.get(f"{replica.url}/health", timeout=5)).raise_for_status()
        except httpx2.HTTPError as error:
            self._replicas.failed(replica, _reason(error))
        else:
            replica.fault = None
            await self._unload(replica)

    async def _unload(self, replica: Replica) -> None:
        """Unload removed adapters. Servers report adapters that they have not loaded as not found."""
        for adapter in list(replica.unloads):
            try:
                url = f"{replica.url}/v1/unload_lora_adapter"
                response = await self._client.post(url, json={"lora_name": adapter}, timeout=30)
                if response.is_server_error:
                    response.raise_for_status()
            except httpx2.HTTPError as error:
                self._replicas.failed(replica, _reason(error))
                return
            replica.unloads.discard(adapter)


def _check_generator(generator: GeneratorModel) -> None:
    """Raise `ConfigError` for a generator whose adapters need more than a LoRA and a prompt."""
    settings, backbone = generator.settings, generator.backbone
    if backbone.encoder_decoder:
        raise ConfigError(f"expected a generator of a decoder-only base model, got one of {backbone.identity.name}")
    more = list(settings.beside_lora(decoder_only=True))
    if settings.tune != "none":
        more.append(f"tuned backbone parameters ({settings.tune})")
    if more:
        raise ConfigError(
            f"expected a generator whose adapters are a LoRA alone, for an upstream server, got one with {more[0]}"
        )


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}" if str(error) else type(error).__name__
