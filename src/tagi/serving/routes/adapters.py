"""Adapters and their refinements."""

from pathlib import Path as FilePath
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response
from fastapi.responses import FileResponse, JSONResponse
from starlette.background import BackgroundTask

from tagi.serving.bodies import AdapterBodies, RefineBody
from tagi.serving.faults import ApiError
from tagi.serving.routes.context import KEY, AService, Owner, SomeJobs, faults
from tagi.serving.store import Entry

router = APIRouter(prefix="/v1", tags=["adapters"], dependencies=[KEY])
Id = Annotated[str, Path(description="The adapter's id.", max_length=64)]


@router.post("/adapters", status_code=201, responses=faults(403, 507), response_model=None)
async def create(service: AService, owner: Owner, body: AdapterBodies) -> JSONResponse:
    """Generate an adapter from an instruction, or one for each instruction of a list in one pass.

    Repeating a request returns the same adapters (status 200 if none is new). The id of an adapter is a model name.
    """
    wanted = body if isinstance(body, list) else [body]
    if not 0 < len(wanted) <= service.limits.adapters_per_request:
        most = service.limits.adapters_per_request
        raise ApiError(400, f"expected from 1 to {most} adapters, got {len(wanted)}", code="invalid_value")
    made = await service.create(owner, wanted)
    status = 201 if any(new for _, new in made) else 200
    shown = [_shown(entry) for entry, _ in made]
    return JSONResponse(_listed(shown) if isinstance(body, list) else shown[0], status)


@router.get("/adapters", responses=faults())
async def adapters(
    service: AService,
    owner: Owner,
    after: Annotated[str | None, Query(max_length=64, description="An id: list what was made after it.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="Adapters at most.")] = 100,
) -> dict[str, Any]:
    """List the key's adapters, oldest first."""
    found = service.store.entries(owner, after=after, limit=limit + 1)
    return _listed([_shown(entry) for entry in found[:limit]], more=len(found) > limit)


@router.get("/adapters/{id}", responses=faults(404))
async def adapter(service: AService, owner: Owner, id: Id) -> dict[str, Any]:
    """Describe an adapter, with the norm of its update for every layer."""
    return _shown(service.entry(owner, id), layers=True)


@router.delete("/adapters/{id}", responses=faults(404))
async def delete(service: AService, owner: Owner, id: Id) -> dict[str, Any]:
    """Delete an adapter. Its id is never reused."""
    await service.delete(owner, id)
    return {"id": id, "object": "adapter.deleted", "deleted": True}


@router.get(
    "/adapters/{id}/export",
    responses={200: {"content": {"application/zip": {}}}, **faults(404, 507)},
    response_class=FileResponse,
)
async def export(
    service: AService,
    owner: Owner,
    id: Id,
    lossy: Annotated[bool, Query(description="Export the LoRA although the adapter acts by more.")] = False,
) -> Response:
    """Download an adapter as a zip file with a folder for PEFT and vLLM."""
    file = await service.export(owner, id, lossy=lossy)
    removed = BackgroundTask(FilePath.unlink, file, missing_ok=True)
    return FileResponse(file, media_type="application/zip", filename=f"{id}.zip", background=removed)


@router.post("/adapters/{id}/refine", status_code=202, responses=faults(404))
async def refine(jobs: SomeJobs, owner: Owner, id: Id, body: RefineBody) -> dict[str, Any]:
    """Fine-tune an adapter on labelled examples. The result of the job is a new adapter; this one is not changed."""
    return await jobs.begin(owner, id, body)


@router.get("/jobs/{id}", responses=faults(404))
async def job(
    jobs: SomeJobs, owner: Owner, id: Annotated[str, Path(description="The job's id.", max_length=64)]
) -> dict[str, Any]:
    """Return the status of a refinement: `queued`, `running`, `succeeded` with `result`, or `failed` with `error`."""
    return jobs.shown(owner, id)


def _shown(entry: Entry, *, layers: bool = False) -> dict[str, Any]:
    facts = {name: value for name, value in entry.facts.items() if layers or name != "layers"}
    return {
        "id": entry.id,
        "object": "adapter",
        "created": int(entry.created),
        "name": entry.name,
        "instruction": entry.instruction,
        "demonstrations": [{"input": one.input, "output": one.output} for one in entry.examples],
        "refined_from": entry.parent,
        "status": "ready" if entry.fault is None else "damaged",
        "fault": entry.fault,
        **facts,
    }


def _listed(shown: list[dict[str, Any]], *, more: bool = False) -> dict[str, Any]:
    return {"object": "list", "data": shown, "has_more": more}
