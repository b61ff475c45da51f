"""Refinement jobs: one is trained at a time, and each produces a new adapter."""

import asyncio
import logging
import secrets
import time
from dataclasses import dataclass, replace
from typing import Any

from tagi.api.lora_training import Refinement
from tagi.serving.access import overloaded
from tagi.serving.bodies import RefineBody
from tagi.serving.faults import ApiError, not_found, tell
from tagi.serving.service import Service
from tagi.serving.store import JobEntry

_log = logging.getLogger(__name__)


class _Stopped(Exception):
    """Raised in the training thread when the server stops."""


@dataclass
class _Progress:
    """Progress of a job, written by the training thread."""

    done: int
    steps: int


class Jobs:
    """The refinements of all owners."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._training = asyncio.Lock()
        self._live: dict[str, tuple[JobEntry, _Progress]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False

    async def begin(self, owner: str, adapter: str, body: RefineBody) -> dict[str, Any]:
        """Start a refinement of an owner's adapter and return the job.

        Raises `ApiError` if a limit is exceeded, and `InputError` for examples that cannot be trained on.
        """
        service, limits = self._service, self._service.limits
        service.sound(owner, adapter)
        for name, given, most in (
            ("examples", len(body.examples), limits.refine_examples),
            ("steps", body.steps, limits.refine_steps),
        ):
            if given > most:
                raise ApiError(400, f"{name}: expected at most {most}, got {given}", code="invalid_value", param=name)
        examples = [one.example for one in body.examples]
        settings = Refinement(body.steps, body.learning_rate, body.batch_size, body.seed, 0, body.truncate)
        await asyncio.to_thread(service.maker.check_examples, examples, settings)
        if sum(job.owner == owner for job, _ in self._live.values()) >= limits.jobs_per_key:
            raise overloaded(f"expected at most {limits.jobs_per_key} refinements of a key at a time, got one more", 30)
        job = JobEntry(secrets.token_hex(16), owner, time.time(), adapter, "queued")
        self._live[job.id] = job, _Progress(0, body.steps)
        try:
            await asyncio.to_thread(service.store.keep_job, job)
        except BaseException:
            del self._live[job.id]
            raise
        task = asyncio.create_task(self._run(job, examples, settings, body.name))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return self.shown(owner, job.id)

    async def close(self) -> None:
        """Stop the running job at its next step. The store records this for every unfinished job."""
        self._stopping = True
        if self._tasks:
            await asyncio.wait(self._tasks)

    def shown(self, owner: str, id: str) -> dict[str, Any]:
        """Return the response for an owner's job. Raises `ApiError` (404) if it does not exist."""
        live = self._live.get(id)
        found = live[0] if live and live[0].owner == owner else self._service.store.job(owner, id)
        if found is None:
            raise not_found("expected the id of a job of this key, got another", "job_not_found")
        done = found.status == "succeeded"
        progress = round(live[1].done / live[1].steps, 4) if live else float(done)
        return {
            "id": found.id,
            "object": "job",
            "created": int(found.created),
            "adapter": found.adapter,
            "status": found.status,
            "progress": progress,
            "result": found.result,
            "error": found.error,
        }

    async def _run(self, job: JobEntry, examples: list[Any], settings: Refinement, name: str) -> None:
        """Train, store the adapter, and record the outcome in the store."""
        try:
            async with self._training:
                await self._become(replace(job, status="running"))
                ended = await self._train(job, examples, settings, name)
            await self._become(ended)
        except Exception as error:  # the record cannot be written: the next start of the server marks the job as failed
            _log.error("job %s: its state could not be stored: %s", job.id, type(error).__name__)
        finally:
            self._live.pop(job.id, None)

    async def _train(self, job: JobEntry, examples: list[Any], settings: Refinement, name: str) -> JobEntry:
        service, progress = self._service, self._live[job.id][1]

        def report(done: int, steps: int) -> None:
            progress.done = done
            if self._stopping:
                raise _Stopped

        try:
            if self._stopping:
                raise _Stopped
            service.sound(job.owner, job.adapter)
            await asyncio.to_thread(service.store.check, job.adapter)
            folder = service.store.folder(job.adapter)
            made = await asyncio.to_thread(service.maker.refine, folder, examples, settings, report)
            entry = await service.keep(job.owner, made, name=name, parent=job.adapter)
            return replace(job, status="succeeded", result=entry.id)
        except _Stopped:
            return replace(job, status="failed", error="the server stopped")
        except Exception as error:
            return replace(job, status="failed", error=tell(error).error["message"])

    async def _become(self, job: JobEntry) -> None:
        self._live[job.id] = job, self._live[job.id][1]
        await asyncio.to_thread(self._service.store.keep_job, job)
