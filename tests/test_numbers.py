"""docs/numbers.md: the code and the tests that it names are there."""

import re
from pathlib import Path

_PLACE = re.compile(r"`(?:([\w/]+\.py): )?(\w+)`")


def test_the_page_of_numbers_names_code_and_tests_that_exist(repo_root: Path) -> None:
    rows = [line for line in (repo_root / "docs" / "numbers.md").read_text().splitlines() if line.startswith("| ")]
    cells = [row.split(" | ") for row in rows if "---" not in row and "computed by" not in row]
    assert len(cells) > 40
    missing = []
    for _, code, tests in cells:
        for cell, root in ((code, "src/tagi"), (tests, "tests")):
            file, found = "", _PLACE.findall(cell)
            assert found, cell
            for path, name in found:
                file = path or file  # a further name of the same file
                source = repo_root / root / file
                if not source.is_file() or not re.search(rf"^ *def {name}\(", source.read_text(), re.MULTILINE):
                    missing.append(f"{root}/{file}: {name}")
    assert missing == []
