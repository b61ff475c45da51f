"""The page and the Markdown file: all in one file, escaped, and complete."""

import base64
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tagi.errors import InputError
from tagi.evaluation.reports.report import make_report
from tagi.evaluation.reports.write import as_markdown, as_page
from tests.evaluation.reports.made_up import environment, evaluation, result, training, write

EVIL = "<script>alert('x')</script> | `a` [b](http://c) & **d** $x_1$"
VOID = {"meta", "img", "link", "br", "hr", "input"}


class Page(HTMLParser):
    """Tags with their attributes, the text, and whether every tag is closed where it should be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def records(tmp_path: Path) -> Path:
    folder = tmp_path / "records"
    both = {"right": result(dict.fromkeys("abc", 61.0)), EVIL: result(dict.fromkeys("abc", 4.0), given=EVIL)}
    write(folder / "one", evaluation(results=both, environment=environment(device=EVIL)))
    write(folder / "two", evaluation(62.0, overrides=["training.finetune.steps=7"]))
    write(folder / "own", evaluation(63.0, recipe="sni-base", overrides=[f"backbone.name='''{EVIL}'''"]))
    write(folder / "<b>broken", "{")
    write(folder / "train", training())
    second = training(seed=1)
    second["recipe"]["generator"]["kind"] = EVIL
    write(folder / "train-2", second)
    return folder


def test_everything_from_records_is_escaped(records: Path) -> None:
    report = make_report(records)
    page = as_page(report)
    parsed = Page(page)
    assert "<script" not in page
    assert "<b>" not in page
    assert parsed.text.count(EVIL) >= 4
    text = as_markdown(report)
    assert "<script" not in text.replace("\\<", "")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    widths = {len(re.split(r"(?<!\\)\|", line)) for line in rows}
    assert len(rows) > 9
    tables = re.split(r"\n\n", text)
    for table in (one for one in tables if one.startswith("|")):
        assert len({len(re.split(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
    assert widths != {1}


def test_charts_hold_records_words_as_text(records: Path) -> None:
    report = make_report(records)
    charts = [chart for section in report.sections for chart in section.charts]
    assert charts
    for chart in charts:
        kind, _, content = chart.address.partition(",")
        assert kind == "data:image/svg+xml;base64"
        svg = re.sub("<!--.*?-->", "", base64.b64decode(content).decode("utf-8"), flags=re.DOTALL)
        assert "<script" not in svg
        assert ("&lt;script&gt;" in svg and "$x_1$" in svg) == ("loss" in chart.title)
        assert svg.rstrip().endswith("</svg>")


def test_the_page_needs_nothing_beside_it(records: Path) -> None:
    page = Page(as_page(make_report(records)))
    links = [value for _, attributes in page.tags for key, value in attributes.items() if key in ("src", "href")]
    assert links
    assert [link for link in links if link is None or not link.startswith(("data:", "#"))] == []
    names = {tag for tag, _ in page.tags}
    assert names.isdisjoint({"script", "link", "iframe", "object"})
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")
    targets = {attributes.get("id") for _, attributes in page.tags}
    assert all(link[1:] in targets for link in links if link is not None and link.startswith("#"))


def test_every_number_is_in_both(records: Path) -> None:
    report = make_report(records)
    page, text = Page(as_page(report)).text.replace("\N{NO-BREAK SPACE}", " "), as_markdown(report)
    for words in ("61.0", "62.0", "63.0", "58.0 to 65.0, n 12", "6.500 to 4.250", "1,234", "3.00 GiB", "2.0 h"):
        assert words in page
        assert words in text
    assert "not JSON" in page
    assert "not JSON" in text
    assert "broken/record.json" in page
    assert report.date.strftime("%Y-%m-%d") in page
    assert "Scores: sni" in page
    assert "missing" in page


def test_losses_are_drawn_by_stage(records: Path) -> None:
    (training_section,) = [one for one in make_report(records).sections if one.title == "Training"]
    (chart,) = training_section.charts
    assert chart.title == "toy: loss of finetune"
    assert "seed 0: 6.500 to 4.250" in chart.alt
    assert "seed 1: 6.500 to 4.250" in chart.alt


def test_without_matplotlib_the_tables_are_there_and_it_is_said(records: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tagi.evaluation.reports.report.have_charts", lambda: False)
    page = Page(as_page(make_report(records)))
    assert "tagi-adapters[plots]" in page.text
    assert "62.0" in page.text
    assert "img" not in {tag for tag, _ in page.tags}


def test_what_a_data_set_lacks_is_said(records: Path) -> None:
    sections = {section.title: section for section in make_report(records).sections}
    toy, sni = sections["Scores: toy"], sections["Scores: sni"]
    lacking = next(words for words in toy.words if words.startswith("Missing"))
    assert "Table 4" in lacking
    assert "the left of Figure 4" not in lacking
    assert "the left of Figure 4" in next(words for words in sni.words if words.startswith("Missing"))


def test_no_records_at_all(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(InputError, match=f"expected records under {tmp_path}"):
        make_report(tmp_path)
    with pytest.raises(InputError, match="expected a folder with records"):
        make_report(tmp_path / "nowhere")


def test_a_folder_of_nothing_usable_is_still_reported(tmp_path: Path) -> None:
    write(tmp_path / "x", "{")
    report = make_report(tmp_path)
    assert report.used == ()
    assert "x/record.json" in Page(as_page(report)).text
