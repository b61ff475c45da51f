"""Uploading to the Hugging Face hub."""

import tempfile
from pathlib import Path

from tagi.formats.hub import push_folder


class Uploadable:
    """Base class of objects with `save_pretrained`."""

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder."""
        raise NotImplementedError

    def push_to_hub(self, repository: str, *, private: bool = False, message: str = "Upload with tagi") -> str:
        """Upload the folder that `save_pretrained` writes, in one commit.

        Args:
            repository: Name on the hub, `OWNER/NAME`. The repository is created if it does not exist.
            private: Whether a new repository is private.
            message: Commit message.

        Returns:
            The URL of the commit.
        """
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "upload"
            self.save_pretrained(target)
            return push_folder(target, repository, private=private, message=message)
