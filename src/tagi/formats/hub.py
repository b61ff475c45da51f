"""Generators by built-in name, folder or hub repository."""

from importlib import resources
from pathlib import Path

from tagi.errors import CheckpointError

BUILT_IN = {"toy": "toy-generator", "smollm2": "smollm2-generator"}
"""Generators shipped inside the package: name -> folder under `tagi/assets`."""
DEFAULT = "smollm2"
"""The one that commands take where none is named."""


def find_generator(name: str, revision: str | None = None) -> Path:
    """A folder holding the generator; the hub is asked only for a name neither built in nor a folder."""
    if name in BUILT_IN:
        return Path(str(resources.files("tagi") / "assets" / BUILT_IN[name]))
    folder = Path(name)
    if folder.exists():
        return folder
    if name.count("/") != 1 or name.startswith((".", "/")):
        raise CheckpointError(f"{name}: expected a built-in generator ({', '.join(BUILT_IN)}), a folder or a hub name")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{name}: no such folder, and the hub gave none: {reason}") from error


def push_folder(folder: Path, repository: str, *, private: bool, message: str) -> str:
    """Upload a folder to a hub repository in one commit; return the commit's address."""
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo(repository, private=private, exist_ok=True)
    commit = api.upload_folder(repo_id=repository, folder_path=str(folder), commit_message=message)
    return str(commit.commit_url)
