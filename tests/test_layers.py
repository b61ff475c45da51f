"""Imports point one way: every module belongs to a layer, and a layer imports only what it may.

Read from the source, so that imports inside functions and under `TYPE_CHECKING` count too.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

EVERYONE_MAY = {"activity", "errors", "files"}
SETTINGS = {"settings"}
MODELS = {*SETTINGS, "data", "adapters", "backbones", "hypernetwork", "formats"}
STAGES = {*MODELS, "config", "methods", "training", "evaluation"}
MAY_IMPORT: dict[str, set[str]] = {
    "activity": set(),
    "errors": set(),
    "files": set(),
    "settings": set(),
    "config": SETTINGS,
    "data": SETTINGS,
    "adapters": SETTINGS,
    "backbones": {*SETTINGS, "adapters"},
    "hypernetwork": {*SETTINGS, "data", "adapters", "backbones"},
    "formats": {*SETTINGS, "data", "adapters", "backbones", "hypernetwork"},
    "methods": MODELS,
    "training": {*MODELS, "methods"},
    "evaluation": {*MODELS, "methods"},
    "stages": STAGES,
    "api": {*STAGES, "stages"},
    "serving": {*STAGES, "stages", "api"},
    "cli": {*STAGES, "stages", "api", "serving"},
    "__init__": {"api", "data", "settings"},
    "__main__": {"cli"},
}
"""Layer (the first name under `tagi`) -> what it may import besides itself and `EVERYONE_MAY`."""

TEXT = {"task", "text"}
SEES_OF_DATA = {
    "hypernetwork": TEXT,
    "formats": TEXT,
    "methods": {*TEXT, "batches", "denoising", "pretraining"},
}
"""Of `data`, models see the task model and how text becomes tokens and batches: never a reader of files."""
NO_IMPORT_AT_ALL = {"errors"}


def layer_of(module: str) -> str:
    """`tagi.data.task` -> `data`; `tagi` itself -> `__init__`."""
    return [*module.split("."), "__init__"][1]


def modules(source: Path) -> Iterator[tuple[str, Path]]:
    """Every module under `source/tagi` with its dotted name."""
    for file in sorted((source / "tagi").rglob("*.py")):
        parts = file.relative_to(source).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), file


def imports(module: str, file: Path) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of everything imported, `from x import y` as `x.y`, wherever it stands."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, name.name) for name in names)
            case ast.ImportFrom(module=base, names=names, level=level):
                if level:
                    parents = package.split(".")
                    base = ".".join([*parents[: len(parents) - level + 1], *([base] if base else [])])
                yield from ((node.lineno, f"{base}.{name.name}") for name in names)
            case ast.Call(
                func=ast.Name(id=called) | ast.Attribute(attr=called),
                args=[ast.Constant(value=str(name)), *_],
            ):
                if called in ("import_module", "__import__"):
                    yield node.lineno, name


def faults(source: Path) -> list[str]:
    """Every import against the layers, and every module without one, as `module:line: what`."""
    found = []
    top = source / "tagi"
    for module, file in modules(source):
        layer = "__main__" if file.name == "__main__.py" and file.parent == top else layer_of(module)
        if layer not in MAY_IMPORT:
            found.append(f"{module}: belongs to no layer")
            continue
        for line, name in imports(module, file):
            if layer in NO_IMPORT_AT_ALL or (name.split(".")[0] == "tagi" and not _allowed(layer, name, top)):
                found.append(f"{module}:{line}: {layer} may not import {name}")
    return found


def _allowed(layer: str, name: str, top: Path) -> bool:
    target = layer_of(name)
    if not (top / target).is_dir() and not (top / f"{target}.py").is_file():
        return name == "tagi.__version__"  # a name of `tagi` itself: what it re-exports hides a layer
    if target == "data" and layer in SEES_OF_DATA:
        return not SEES_OF_DATA[layer].isdisjoint(name.split(".")[2:3])
    return target in MAY_IMPORT[layer] | EVERYONE_MAY | {layer}


def test_every_import_points_down(repo_root: Path) -> None:
    assert faults(repo_root / "src") == []


def test_every_folder_of_code_is_a_package_with_a_layer(repo_root: Path) -> None:
    top = repo_root / "src" / "tagi"
    folders = {file.parent for file in top.rglob("*.py")}
    assert len(folders) > 3
    assert [str(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []
    assert {folder.name for folder in folders if folder.parent == top} <= set(MAY_IMPORT)


GOOD = {
    "errors.py": "class TagiError(Exception): ...",
    "files.py": "from tagi.errors import TagiError",
    "data/__init__.py": "from tagi.data.task import Task",
    "data/task.py": "from ..errors import TagiError",
    "data/sni.py": "import json",
    "methods/__init__.py": "from tagi import __version__\nfrom tagi.data.task import Task",
    "adapters/__init__.py": "",
    "hypernetwork/__init__.py": "from tagi.data.text.encoder import TextEncoder",
    "training/__init__.py": "import tagi.methods\nimport torch",
    "cli/__init__.py": "def f():\n    from tagi import errors, data",
}


def write_tree(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        file = folder / "tagi" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


def test_a_good_tree_has_no_faults(tmp_path: Path) -> None:
    assert faults(write_tree(tmp_path, GOOD)) == []


@pytest.mark.parametrize(
    ("file", "text", "named"),
    [
        ("data/task.py", "import tagi.adapters", "data may not import tagi.adapters"),
        ("data/task.py", "from tagi import adapters", "data may not import tagi.adapters"),
        ("data/task.py", "from .. import adapters", "data may not import tagi.adapters"),
        ("data/__init__.py", "from ..adapters import LoraBank", "data may not import tagi.adapters.LoraBank"),
        (
            "data/task.py",
            "from importlib import import_module\nimport_module('tagi.cli')",
            "may not import tagi.cli",
        ),
        (
            "adapters/bank.py",
            "def f():\n    from tagi.data import Task",
            "tagi.adapters.bank:2: adapters may not",
        ),
        (
            "adapters/bank.py",
            "if TYPE_CHECKING:\n    import tagi.methods",
            "adapters may not import tagi.methods",
        ),
        ("adapters/bank.py", "from tagi import Generator", "adapters may not import tagi.Generator"),
        ("adapters/bank.py", "import tagi", "adapters may not import tagi"),
        (
            "methods/concat.py",
            "from tagi.data.readers.sni import read",
            "methods may not import tagi.data.readers.sni.read",
        ),
        ("methods/concat.py", "from tagi.data import Task", "methods may not import tagi.data.Task"),
        (
            "hypernetwork/pooled.py",
            "from tagi.data.batches import Sample",
            "hypernetwork may not import tagi.data",
        ),
        ("hypernetwork/pooled.py", "import tagi.data", "hypernetwork may not import tagi.data"),
        (
            "training/trainer.py",
            "from tagi.evaluation import score",
            "training may not import tagi.evaluation",
        ),
        ("evaluation/score.py", "from tagi.training import fit", "evaluation may not import tagi.training"),
        ("api/train.py", "from tagi.serving import app", "api may not import tagi.serving"),
        (
            "training/trainer.py",
            "from tagi.config import Recipe",
            "training may not import tagi.config.Recipe",
        ),
        ("stages/run.py", "from tagi.cli import main", "stages may not import tagi.cli.main"),
        ("errors.py", "import os", "errors may not import os"),
        ("helpers.py", "", "tagi.helpers: belongs to no layer"),
        ("helpers/deep/x.py", "", "tagi.helpers.deep.x: belongs to no layer"),
    ],
)
def test_an_import_against_the_layers_is_named(tmp_path: Path, file: str, text: str, named: str) -> None:
    every = {
        **GOOD,
        **{f"{name}/__init__.py": "" for name in ("evaluation", "serving", "config")},
        file: text,
    }
    found = faults(write_tree(tmp_path, every))
    assert len(found) == 1
    assert named in found[0]


def import_graph(source: Path) -> dict[str, set[str]]:
    """Every module and the modules it imports, wherever the import stands."""
    known = dict(modules(source))
    graph: dict[str, set[str]] = {module: set() for module in known}
    for module, file in known.items():
        for _, name in imports(module, file):
            while name and name not in known:
                name = name.rpartition(".")[0]
            if name not in ("", module) and not module.startswith(f"{name}."):
                graph[module].add(name)
    return graph


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other, directly or through others."""
    reached: dict[str, set[str]] = {}
    for module in graph:
        found: set[str] = set()
        ahead = list(graph[module])
        while ahead:
            one = ahead.pop()
            if one not in found:
                found.add(one)
                ahead += graph[one]
        reached[module] = found
    groups = {tuple(sorted(other for other in found if module in reached[other])) for module, found in reached.items()}
    return sorted(list(group) for group in groups if len(group) > 1)


def test_no_modules_import_each_other(repo_root: Path) -> None:
    graph = import_graph(repo_root / "src")
    assert len(graph) > 100
    assert sum(map(len, graph.values())) > 500
    assert circles(graph) == []


@pytest.mark.parametrize("form", ["import tagi.data.b", "def f():\n    from tagi.data import b", "from . import b"])
def test_a_circle_of_imports_is_named(tmp_path: Path, form: str) -> None:
    tree = write_tree(
        tmp_path,
        {"__init__.py": "", "data/__init__.py": "", "data/a.py": form, "data/b.py": "from tagi.data.c import x"},
    )
    assert circles(import_graph(tree)) == []
    write_tree(tmp_path, {"data/c.py": "from tagi.data.a import x"})
    assert circles(import_graph(tree)) == [["tagi.data.a", "tagi.data.b", "tagi.data.c"]]
