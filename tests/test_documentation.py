"""What README and docs show is run or checked, and the pages that are made from the code are up to date."""

import json
import pkgutil
import re
import runpy
from pathlib import Path

import pytest

from tests import documentation
from tests.commands import Run
from tests.documentation import Block, blocks, command_of, commands, fault_of, inline_commands, pages

# PEFT 0.21 asks transformers 5.23 under a name that it deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
PAGES = [str(page.relative_to(documentation.ROOT)) for page in pages()]
RUN = [page for page in PAGES if any(block.kind == "run" for block in blocks(documentation.ROOT / page))]
SILENT = "docs/python.md"
"""The page whose blocks print nothing but what their comments say."""


def promised(block: str) -> list[str]:
    """The comments behind calls of `print`: what each of them prints."""
    return re.findall(r"^ *print\(.*\)  # (.*)$", block, re.MULTILINE)


@pytest.fixture
def page_folder(repo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that a page's blocks run in, with the examples; nothing is uploaded."""

    def push(folder: Path, repository: str, *, private: bool, message: str) -> str:
        assert any(folder.iterdir())
        return f"https://huggingface.co/{repository}/commit/main"

    monkeypatch.setattr("tagi.api.hub.push_folder", push)
    (tmp_path / "examples").symlink_to(repo_root / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", RUN)
def test_marked_blocks_run(
    name: str, repo_root: Path, page_folder: Path, run_tagi: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """From top to bottom; Python prints what its comments say."""
    namespace: dict[str, object] = {}
    for block in blocks(repo_root / name):
        if block.kind == "file":
            write_file(block, page_folder)
        elif block.kind == "run" and block.language == "python":
            capsys.readouterr()
            exec(compile(block.code, block.place, "exec"), namespace)
            said = promised(block.code)
            printed = capsys.readouterr().out.splitlines()
            assert printed == said or (not said and name != SILENT), block.place
        elif block.kind == "run":
            assert block.language == "sh", block.place
            for words in commands(block.code):
                assert words[0] == "tagi", f"{block.place}: {words}"
                ran = run_tagi(*words[1:])
                assert ran.code == 0, f"{block.place}: {words}: {ran.err}"


def test_pages_that_are_read_first_are_run() -> None:
    """Marks decide what runs: too few of them, and nothing would be tested."""
    assert {"README.md", SILENT, "docs/own-tasks.md", "docs/tutorials/try-it.md"} <= set(RUN)
    counts = {page: sum(block.kind == "run" for block in blocks(documentation.ROOT / page)) for page in RUN}
    assert counts[SILENT] >= 16
    assert sum(counts.values()) >= 27


def write_file(block: Block, folder: Path) -> None:
    """Write a block to the file that its mark names: JSON on one line."""
    text = json.dumps(json.loads(block.code)) + "\n" if block.language == "json" else block.code
    (folder / block.detail).write_text(text, encoding="utf-8")


@pytest.mark.parametrize("name", PAGES)
def test_every_block_is_marked_and_names_what_exists(name: str, repo_root: Path) -> None:
    for block in blocks(repo_root / name):
        assert block.language, f"{block.place}: expected a language, such as text for output"
        assert block.kind, f"{block.place}: expected a mark before the block, see tests/documentation.py"
        if block.kind in ("checked", "not run here"):
            assert block.detail, f"{block.place}: expected a reason"
        if block.kind == "run by":
            path, _, test = block.detail.partition("::")
            assert f"def {test}(" in (repo_root / path).read_text(encoding="utf-8"), block.place
        if block.language == "sh":
            for words in commands(block.code):
                if words[0] in ("tagi", "pip") or block.kind == "checked":
                    assert fault_of(words) is None, f"{block.place}: {words}: {fault_of(words)}"


@pytest.mark.parametrize("name", PAGES)
def test_commands_in_the_text_exist_with_their_options(name: str, repo_root: Path) -> None:
    for words in inline_commands(repo_root / name):
        command, rest = command_of(words[1:])
        known = {option for parameter in command.params for option in parameter.opts + parameter.secondary_opts}
        assert {word for word in rest if word.startswith("--")} <= known | {"--help", "--version"}, words


@pytest.mark.parametrize("name", PAGES)
def test_dotted_names_in_the_text_exist(name: str, repo_root: Path) -> None:
    for dotted in re.findall(r"`(tagi(?:\.\w+)+)", (repo_root / name).read_text(encoding="utf-8")):
        assert pkgutil.resolve_name(dotted) is not None


def test_examples_in_help_texts_name_what_exists(repo_root: Path) -> None:
    page = (repo_root / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    shown = re.findall(r"^ {4}((?:tagi|cat) .*)$", page.replace("\\\n", " "), re.MULTILINE)
    assert len(shown) > 60
    for line in shown:
        for words in commands(line):
            assert words[0] == "cat" or fault_of(words) is None, f"{line}: {fault_of(words)}"


def test_the_front_page_shows_code_of_the_readme(repo_root: Path) -> None:
    def python(name: str) -> str:
        return next(block.code for block in blocks(repo_root / name) if block.language == "python")

    assert python("README.md").startswith(python("docs/index.md"))


def test_generated_pages_are_up_to_date(repo_root: Path) -> None:
    """`make docs-reference` writes them."""
    script = runpy.run_path(str(repo_root / "docs" / "make_reference.py"))
    for path, page in script["PAGES"].items():
        assert path.read_text(encoding="utf-8") == page(), f"{path.name} is out of date: run `make docs-reference`"


def test_every_page_is_in_the_navigation(repo_root: Path) -> None:
    listed = re.findall(r": ([\w/-]+\.md)$", (repo_root / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    docs = repo_root / "docs"
    assert sorted(listed) == sorted(str(page.relative_to(docs)) for page in docs.glob("**/*.md"))


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        ("tagi predikt x", "predikt"),
        ("tagi predict -a adapter --beam 4 x", "--beam"),
        ("tagi run toi", "'toi'"),
        ("tagi run toy --set training.step=3", "training.step"),
        ("tagi train finetunes toy --out x", "finetunes"),
        ("tagi compare --methods hinted toy", "hinted"),
        ("tagi sweep toy --grid table5", "table5"),
        ("tagi evaluate toy toy --condition rihgt", "rihgt"),
        ("tagi evaluate toy", "RECIPE"),
        ("make dokumentation", "dokumentation"),
        ("python examples/nothing.py", "nothing.py"),
        ("pip install 'tagi-adapters[server]'", "tagi-adapters[server]"),
        ("curl localhost", "curl"),
    ],
)
def test_a_wrong_name_is_seen(command: str, fault: str) -> None:
    (words,) = commands(command)
    assert fault in str(fault_of(words))


def test_a_block_without_a_mark_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```sh\ntagi demo\n```\n\n<!-- checked: long -->\n```sh\ntagi run x | tagi y > z  # w\n```\n")
    one, other = blocks(page)
    assert (one.kind, other.kind, other.detail) == ("", "checked", "long")
    assert list(commands(other.code)) == [["tagi", "run", "x"], ["tagi", "y"]]
