"""What messages say of a TOML text that cannot be read."""

import tomllib

import pytest

from tagi.settings.faults import toml_fault

QUOTES, LOWER = ": text needs quotes", ": true and false are written in lower case"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a = 1\nname = tiny", f"name: Invalid value (at line 2, column 8){QUOTES}"),
        ("flag = True", f"flag: Invalid value (at line 1, column 8){LOWER}"),
        ("flags = [true, False]", f"flags: Invalid value (at line 1, column 16){LOWER}"),
        ("name = Truest", f"name: Invalid value (at line 1, column 8){QUOTES}"),
        ("name = [x]", f"name: Invalid value (at line 1, column 9){QUOTES}"),
        ("flag = true 1", "flag: Expected newline or end of document after a statement (at line 1, column 13)"),
        ("size = ,1", "size: Invalid value (at line 1, column 8)"),
        ("[odd", "Expected ']' at the end of a table declaration (at end of document)"),
    ],
)
def test_the_key_and_the_fault_are_named(text: str, fault: str) -> None:
    with pytest.raises(tomllib.TOMLDecodeError) as caught:
        tomllib.loads(text)
    assert toml_fault(text, caught.value) == fault
