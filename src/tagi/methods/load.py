"""Reading a checkpoint of whatever method it holds."""

from pathlib import Path

from tagi.backbones.checkpoint import read_config
from tagi.errors import CheckpointError
from tagi.methods.concatenation import Concatenation
from tagi.methods.protocol import Method
from tagi.methods.tagi import TAGI

METHODS: dict[str, type[Method]] = {method.name: method for method in (TAGI, Concatenation)}


def load_method(folder: Path) -> Method:
    """The method saved in `folder`; `CheckpointError` if it is none of the known ones."""
    name = read_config(folder)["method"]
    if name not in METHODS:
        raise CheckpointError(f"{folder}: expected a method among {', '.join(METHODS)}, got {name!r}")
    return METHODS[name].load(folder)
