"""Uploading to the Hugging Face hub."""

import tempfile
from pathlib import Path

from tagi.formats.hub import push_folder


class Uploadable:
    """Something that `save_pretrained` writes as a folder."""

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder."""
        raise NotImplementedError

    def push_to_hub(self, repository: str, *, private: bool = False, message: str = "Upload with tagi") -> str:
        """Write the folder that `save_pretrained` writes to a repository on the hub, in one commit.

        Args:
            repository: Name on the hub, `OWNER/NAME`; the repository is made if it does not exist.
            private: Whether a new repository is private.
            message: The commit's message.

        Returns the commit's address.
        """
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "upload"
            self.save_pretrained(target)
            return push_folder(target, repository, private=private, message=message)
