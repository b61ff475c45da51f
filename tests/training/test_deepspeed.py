"""Two processes that share one model by DeepSpeed train as one does. `make test-slow` runs this if it is installed."""

from pathlib import Path

import pytest

from tests.training.processes import trained_alike


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["concatenation", "tagi"])
@pytest.mark.parametrize("configuration", ["zero2", "zero3"])
def test_two_processes_of_deepspeed_train_as_one_does(
    repo_root: Path, tmp_path: Path, configuration: str, kind: str
) -> None:
    trained_alike(repo_root, tmp_path, configuration, kind)
