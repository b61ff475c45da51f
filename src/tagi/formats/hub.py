"""Folders on the hub."""

from pathlib import Path

from tagi.backbones.hub import hub_is_unreachable
from tagi.errors import CheckpointError, first_line


def download_folder(repository: str, revision: str | None = None) -> Path:
    """Download a hub repository, or find it in the hub's cache. Raises `CheckpointError` if there is none."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, revision=revision, local_files_only=hub_is_unreachable()))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(f"{repository}: no such folder, and the hub gave none: {first_line(error)}") from error


def push_folder(folder: Path, repository: str, *, private: bool, message: str) -> str:
    """Upload a folder to a hub repository in one commit; return the commit's address."""
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo(repository, private=private, exist_ok=True)
    commit = api.upload_folder(repo_id=repository, folder_path=str(folder), commit_message=message)
    return str(commit.commit_url)
