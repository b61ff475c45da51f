"""Promises of the package as a whole: what importing it costs, what it exports, what it ships."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import jaxtyping
import pytest

import tagi

MODELS = {"torch", "transformers", "peft", "accelerate", "numpy", "datasets"}
HEAVY = {*MODELS, "pydantic", "rich"}


def loaded_by(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after running `code`."""
    report = "import atexit, sys; atexit.register(lambda: print('\\nloaded:', *sys.modules))\n"
    ran = subprocess.run([sys.executable, "-c", report + code], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in ran.stdout.rpartition("loaded:")[2].split()}


@pytest.mark.parametrize(
    "code",
    [
        "import tagi",
        "from tagi import TagiError",
        "from tagi.cli import main; main(['--help'])",
        "from tagi.cli import main; main(['--version'])",
        "import runpy, sys; sys.argv = ['tagi', '--help']; runpy.run_module('tagi', run_name='__main__')",
    ],
)
def test_nothing_heavy_is_imported_before_a_command_needs_it(code: str) -> None:
    loaded = loaded_by(code)
    assert "tagi" in loaded
    assert loaded & HEAVY == set()


@pytest.mark.parametrize("command", [["recipes"], ["recipes", "check"]])
def test_no_model_library_is_imported_for_the_help_of_a_command(command: list[str]) -> None:
    """Typer itself loads pydantic for the values of options."""
    assert loaded_by(f"from tagi.cli import main; main({[*command, '--help']})") & MODELS == set()


def test_what_is_heavy_is_seen() -> None:
    assert {"numpy", "pydantic"} <= loaded_by("import tagi.settings.recipe, numpy")


def test_every_public_name_is_there() -> None:
    for name in tagi.__all__:
        assert getattr(tagi, name) is not None
        assert name in dir(tagi)
    with pytest.raises(AttributeError, match="module 'tagi' has no attribute 'Nothing'"):
        tagi.Nothing  # noqa: B018


def test_every_file_beside_the_code_is_packaged(repo_root: Path) -> None:
    """An editable install sees every file; a wheel holds only what `package-data` names."""
    project = tomllib.loads((repo_root / "pyproject.toml").read_text(encoding="utf-8"))
    top = repo_root / "src" / "tagi"
    patterns = project["tool"]["setuptools"]["package-data"]["tagi"]
    packaged = {file for pattern in patterns for file in top.glob(pattern)}
    beside = {
        file
        for file in top.rglob("*")
        if file.is_file() and file.suffix not in (".py", ".pyc") and "__pycache__" not in file.parts
    }
    assert top / "py.typed" in beside
    assert sorted(beside - packaged) == []


def test_every_dependency_is_pinned(repo_root: Path) -> None:
    project = tomllib.loads((repo_root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [
        *project["dependencies"],
        *(one for extra in project["optional-dependencies"].values() for one in extra),
    ]
    lines = (repo_root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.partition("==")[0].replace("_", "-").lower() for line in lines if not line.startswith("#")}
    assert {re.split(r"[\[>]", one)[0].replace("_", "-").lower() for one in wanted} - pinned == set()
    assert all("==" in line and "+" not in line for line in lines if not line.startswith("#"))


def test_the_tour_names_every_folder(repo_root: Path) -> None:
    tour = (repo_root / "CONTRIBUTING.md").read_text(encoding="utf-8")
    folders = {
        file.parent for pattern in ("*/*.py", "recipes/*.toml") for file in (repo_root / "src/tagi").glob(pattern)
    }
    assert len(folders) > 5
    assert [folder.name for folder in sorted(folders) if f"`src/tagi/{folder.name}`" not in tour] == []


MOST_LINES = {"module": 400, "function": 60}


def too_long(source: Path) -> list[str]:
    """Return every module and function under a folder that has too many lines."""
    found = []
    for file in sorted(source.rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        sizes = [("module", file.stem, len(text.splitlines()))]
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                sizes.append(("function", node.name, (node.end_lineno or 0) - node.lineno + 1))
        found += [f"{file.name}: {kind} {name}: {size}" for kind, name, size in sizes if size > MOST_LINES[kind]]
    return found


def test_no_module_and_no_function_is_too_long(repo_root: Path, tmp_path: Path) -> None:
    assert too_long(repo_root / "src") == []
    lines = "".join(f"    x = {number}\n" for number in range(60))
    (tmp_path / "long.py").write_text(f"def much():\n{lines}" + "\n" * 340, encoding="utf-8")
    assert too_long(tmp_path) == ["long.py: module long: 401", "long.py: function much: 61"]


def test_types_and_shapes_are_checked_while_testing() -> None:
    from tagi.config.recipes import recipe_text

    with pytest.raises(jaxtyping.TypeCheckError, match="name_or_path"):
        recipe_text(3)  # type: ignore[arg-type]
