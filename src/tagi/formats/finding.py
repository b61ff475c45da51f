"""Finding checkpoints and adapters by built-in name, folder or hub repository."""

from importlib import resources
from pathlib import Path

from tagi.errors import CheckpointError
from tagi.formats.checkpoint import CONFIG
from tagi.formats.hub import download_folder
from tagi.formats.records import AdapterRecord
from tagi.settings.stages import MODELS

BUILT_IN = {"toy": "toy-generator", "smollm2": "smollm2-generator"}
"""Built-in generators: folders under `tagi/assets` by name."""
DEFAULT = "smollm2"
"""The generator that commands use by default."""
MODEL = "model"
"""The finished checkpoint inside a stage's folder."""
REFINED, CHECKPOINTS = "adapter", "checkpoints"
"""In the folder of a refinement: the adapter, and the checkpoints for resuming."""
GENERATOR = "generator.txt"
"""File with the name of the generator in older adapter folders."""


def find_checkpoint(name: str, revision: str | None = None) -> Path:
    """Return the checkpoint folder for a name. Only an unknown `owner/name` is looked up on the hub.

    Args:
        name: A built-in generator, a folder, or a hub repository (`owner/name` or `owner/name@revision`). The folder
            is a checkpoint, the folder of a stage, the folder of a run of several stages (the model of the first of
            `MODELS` that was trained) or a task adapter (the generator that made it).
        revision: Branch, tag or commit of a hub repository.

    Raises:
        CheckpointError: Nothing was found. The message lists what was searched.
    """
    if name in BUILT_IN:
        return _built_in(name)
    folder = Path(name)
    if folder.exists():
        if (folder / AdapterRecord.FILE).is_file():
            return find_checkpoint(generator_of(folder))
        places = [folder / MODEL, folder, *(folder / stage / MODEL for stage in MODELS)]
        for place in places:
            if (place / CONFIG).is_file():
                return place
        looked_for = [*(str((place / CONFIG).relative_to(folder)) for place in places), AdapterRecord.FILE]
        wanted = "a checkpoint folder, the folder of a stage or a run, or a task adapter"
        raise CheckpointError(f"{folder}: expected {wanted}, got none of {', '.join(looked_for)}")
    repository, _, named = name.partition("@")
    if repository.count("/") != 1 or name.startswith((".", "/")):
        raise CheckpointError(f"{name}: expected a built-in generator ({', '.join(BUILT_IN)}), a folder or a hub name")
    return download_folder(repository, revision or named or None)


def find_adapters(folder: Path) -> dict[str, Path]:
    """Return the task adapters in a folder by name, at any depth. The folder may be an adapter itself.

    The name of an adapter is its path below `folder`; for a refined one, that of the refinement. Checkpoints of
    refinements are skipped. The folder of a checkpoint or a run contains no adapters.
    """
    if any((folder / place / CONFIG).is_file() for place in ("", MODEL, *(f"{stage}/{MODEL}" for stage in MODELS))):
        return {}
    places = sorted(path.parent for path in folder.rglob(AdapterRecord.FILE))
    names = {place: [part for part in place.relative_to(folder).parts if part != REFINED] for place in places}
    kept = [place for place in places if CHECKPOINTS not in place.relative_to(folder).parts]
    return {"/".join(names[place]) or folder.name: place for place in kept}


def adapter_in(folder: Path) -> Path:
    """Return the folder of an adapter: of the folder of a refinement the adapter in it, else the folder itself."""
    own, refined = ((place / AdapterRecord.FILE).is_file() for place in (folder, folder / REFINED))
    return folder / REFINED if refined and not own else folder


def source_of(name: str, folder: Path) -> str:
    """Return a name of the same checkpoint that works from any folder; for a hub repository, with the commit.

    Args:
        name: The name that was given to `find_checkpoint`.
        folder: The checkpoint that it found.
    """
    if name in BUILT_IN:
        return name
    if not Path(name).exists():
        return f"{name.partition('@')[0]}@{folder.name}"  # folders in the hub's cache are named by commit
    return next((own for own in BUILT_IN if _built_in(own) == folder), str(folder.resolve()))


def generator_of(adapter: Path) -> str:
    """Return the name of the generator in a task adapter's folder.

    Raises `CheckpointError` if the folder is not a task adapter or names none.
    """
    source, older = AdapterRecord.read(adapter).source, adapter / GENERATOR
    try:
        source = source or (older.read_text(encoding="utf-8").strip() if older.is_file() else None)
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{older}: expected a generator's name in UTF-8, got: {error}") from error
    if not source:
        raise CheckpointError(
            f"{adapter}: expected the name of the generator that made it, got none, as of a generator that was not "
            "saved before its adapter: give the generator (on the command line with -g)"
        )
    return source


def _built_in(name: str) -> Path:
    return Path(str(resources.files("tagi") / "assets" / BUILT_IN[name]))
