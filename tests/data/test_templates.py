"""promptsource's template files: how a row is rendered, what stands for a template, what is refused."""

import time
from pathlib import Path
from typing import Any

import pytest

from tagi.data.readers import _sandbox
from tagi.data.readers.promptsource import PromptTemplate, read_templates
from tagi.errors import DataError

ROW = {"text": "Ab cd", "label": 1, "names": ["x", "y", "x"], "about": {"size": 3}}


def template(jinja: str, choices: str | None = None) -> PromptTemplate:
    return PromptTemplate("ask", jinja, choices, True, "templates.yaml: template 'ask'")


def rendered(jinja: str, choices: str | None = None, **row: Any) -> tuple[str, ...]:
    return template(jinja, choices).render({**ROW, **row}, "rows.jsonl: line 4").parts


def fault(jinja: str, choices: str | None = None, **row: Any) -> str:
    with pytest.raises(DataError) as caught:
        template(jinja, choices).render({**ROW, **row}, "rows.jsonl: line 4")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_input_target_and_choices_are_split_and_stripped() -> None:
    made = template("{{text}} yes or no?\n|||\n {{answer_choices[label]}} ", "No |||  {{ names[1] }}\n").render(ROW, "")
    assert made.parts == ("Ab cd yes or no?", "y")
    assert made.choices == ("No", "y")
    assert template("{{text}}").render(ROW, "").choices is None


def test_a_separator_inside_a_row_separates_nothing() -> None:
    odd = {"text": "a ||| b", "names": ["c|||d", "e"], "about": {"size": "f|||"}}
    assert rendered("{{text}}{{about.size}} ||| {{names[0]}}", **odd) == ("a ||| bf|||", "c|||d")
    made = template("{{answer_choices[0]}}|||{{text|length}}", '{{names | join("|||")}}').render({**ROW, **odd}, "")
    assert made.parts == ("c|||d", "7")
    assert made.choices == ("c|||d", "e")


@pytest.mark.parametrize(
    ("jinja", "text"),
    [
        ("{{ names | most_frequent | join('+') }}", "x"),
        ("{{ [1, 2, 2, 1, 3] | most_frequent | join('+') }}", "1+2"),
        ("{{ [] | most_frequent }}", "None"),
        ("{% for a, b in zip(names, [4, 5]) %}{{ a }}{{ b }} {% endfor %}", "x4 y5"),
        (
            "{% for one in names %}{{ loop.index }}{{ one }}{% if not loop.last %}, {% endif %}{% endfor %}",
            "1x, 2y, 3x",
        ),
        ("{% set a, b = names[0], names[1] %}{{ b ~ a }}", "yx"),
        ("{{ text.lower().split(' ')[1:] | join }}", "cd"),
        ("{{ ', '.join(['a', text]) }}", "a, Ab cd"),
        ("{{ text.replace('b', 'z', 1) | replace('c', 'k') | upper }}", "AZ KD"),
        ("{{ about.size * 2 + 7 % 4 }}{{ names[:1] * 2 }}", "9['x', 'x']"),
        ("{{ 2.347 | round(1) }} {{ 7.9 | round(0, 'floor') | int }}", "2.3 7"),
        ("{{ range(2, 9, 3) | list }}", "[2, 5, 8]"),
        ("{{ names | map('upper') | unique | list | length }}", "2"),
        ("{{ about.values() | list }}{{ about['nothing'] }}", "[3]"),
    ],
)
def test_what_prompts_need_is_there(jinja: str, text: str) -> None:
    assert rendered(jinja) == (text,)


def test_a_random_choice_is_a_function_of_name_and_row() -> None:
    draw_examples = [rendered("{{ [0, 1, 2, 3, 4] | choice }}", label=at)[0] for at in range(60)]
    assert set(draw_examples) == set("01234")
    assert draw_examples == [rendered("{{ [0, 1, 2, 3, 4] | choice }}", label=at)[0] for at in range(60)]
    other = PromptTemplate("other", "{{ [0, 1, 2, 3, 4] | choice }}", None, True, "")
    assert draw_examples != [other.render({**ROW, "label": at}, "").parts[0] for at in range(60)]


HARM = [
    ("{{ ''.__class__ }}", "the attribute '__class__'"),
    ("{{ text['__class__'] }}", "the attribute '__class__' of a str"),
    ("{{ names | map(attribute='__class__') | list }}", "the attribute '__class__' of a str"),
    ("{{ names | join('', attribute='__doc__') }}", "the attribute '__doc__' of a str"),
    ("{{ names.append(1) }}", "the attribute 'append' of a list"),
    ("{{ about.clear() }}", "the attribute 'clear' of a dict"),
    ("{{ label.to_bytes(900000000) }}", "the attribute 'to_bytes' of a int"),
    ("{{ text.format(1) }}", "the attribute 'format' of a str"),
    ("{{ text.center(900000000) }}", "the attribute 'center' of a str"),
    ("{{ text | center(900000000) }}", "No filter named 'center'."),
    ("{{ '%900000000d' % label }}", "may not use '%' here"),
    ("{{ 9 ** 9 ** 9 ** 9 }}", "may not use '**' here"),
    ("{{ label | round(-1000000000) }}", "may round to 30 digits at most, got -1000000000"),
    ("{{ text * 900000000 }}", "10000000 at most in all, got 4500000000"),
    ("{{ 900000000 * names }}", "10000000 at most in all, got 2700000000"),
    ("{{ range(10 ** 9) }}", "may not use '**' here"),
    ("{{ range(1000000000000) | list }}", "the range of a prompt may have 10000 numbers at most"),
    ("{{ range(99999999999999999999999999) | join }}", "the range of a prompt may have 10000 numbers at most"),
    ("{% for a in range(9000) %}{% for b in range(9000) %}{% endfor %}{% endfor %}", "may go round 10000 times"),
    ("{% for a in names recursive %}{{ loop(names) }}{% endfor %}", "a recursive loop"),
    ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "the statement 'macro'"),
    ("{% include 'passwords' %}", "the statement 'include'"),
    ("{% import 'os' as os %}", "the statement 'import'"),
    ("{% set a = text %}" + "{% set a = a ~ a %}" * 40, "10000000 at most in all, got"),
    ("{% set a = text.replace('', text * 250) %}" * 3 + "{{ a.replace('', a) }}", "10000000 at most in all, got"),
    ("{% set a = text.replace('', text * 250) %}" * 3 + "{{ a.join(a) }}", "10000000 at most in all, got"),
    ("{{ 'aa'" + " | replace('a', 'aa')" * 40 + " }}", "10000000 at most in all, got"),
    ("{{ range(9000) | join(text * 900) }}", "10000000 at most in all, got"),
    ("{% for a in range(9000) %}{{ text * 900 }}{% endfor %}", "10000000 at most in all, got"),
    ("{{ (" + " ~ ".join(["text * 400000"] * 3) + ") | length }}", "10000000 at most in all, got 12000000"),
    ("{{ (names * 900000 + names * 900000) | length }}", "10000000 at most in all, got 10800000"),
    ("{{ names | groupby('__class__') }}", "the attribute '__class__' of a str"),
    ("{{ names | selectattr('__class__') | list }}", "the attribute '__class__' of a str"),
    ("{{ names | sum(attribute='__class__') }}", "the attribute '__class__' of a str"),
    ("{{ names | map('attr', '__class__') | list }}", "No filter named 'attr'."),
    ("{{ self.__init__ }}", "the attribute '__init__'"),
    ("{{ lipsum() }}", "expected a column 'lipsum'"),
]


@pytest.mark.parametrize(("jinja", "named"), HARM, ids=[jinja[:40] for jinja, _ in HARM])
def test_what_would_do_harm_is_refused_in_one_line_and_at_once(jinja: str, named: str) -> None:
    start = time.perf_counter()
    message = fault(jinja)
    assert time.perf_counter() - start < 5
    assert named in message
    assert "ask" in message
    assert named in fault("a ||| b", jinja)


def test_the_bounds_are_what_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    loops = "{{% for a in range(9000) %}}{{% endfor %}}{{% for a in range({}) %}}{{{{ a % 10 }}}}{{% endfor %}}"
    assert len(rendered(loops.format(1000))[0]) == 1000
    assert "10000 times at most" in fault(loops.format(1001))
    assert rendered("{{ range(10000) | list | length }}") == ("10000",)
    assert "10000 numbers at most" in fault("{{ range(0, 20001, 2) | list | length }}")
    monkeypatch.setattr(_sandbox, "SIZE", 1000)
    assert len(rendered(loops.format(1000))[0]) == 1000
    monkeypatch.setattr(_sandbox, "SIZE", 999)
    assert "999 at most in all, got 1000" in fault(loops.format(1000))


def test_a_row_that_does_not_fit_is_named() -> None:
    where = "rows.jsonl: line 4: template 'ask'"
    assert fault("{{ premise }} ||| {{ label }}") == (
        f"{where}: expected a column 'premise', got text, label, names, about"
    )
    assert fault("{{ text }}", "{{ options }}").startswith(f"{where}: expected a column 'options'")
    assert fault("{{ text }}", answer_choices=["a"]).startswith(f"{where}: expected no column 'answer_choices'")
    assert fault("{{ text + 1 }}").startswith(f"{where} cannot be rendered: ")
    assert fault("{{ nothing.at.all }}", nothing=None).startswith(f"{where} cannot be rendered: ")
    assert fault("{{ label // 0 }}").startswith(f"{where} cannot be rendered: ")


def test_an_invalid_template_is_refused_when_it_is_checked() -> None:
    for jinja in ("{% if text %}", "{{ text | nonsense }}", "{% import 'os' as os %}"):
        with pytest.raises(DataError, match=r"^templates\.yaml: template 'ask': "):
            template(jinja).check()
        with pytest.raises(DataError, match=r"^templates\.yaml: template 'ask': "):
            template("a", jinja).check()
    template("{{ text }} ||| {{ label }}", "a ||| b").check()


@pytest.mark.parametrize(
    ("jinja", "choices", "instruction"),
    [
        ('Given {{text}} is "{{names[0].lower()}}" {{"true"}}? ||| {{answer_choices[label]}}', None,
         'Given [...] is "[...]" true?'),
        ("{{text}} {{answer_choices[1]}} or {{answer_choices | join('/')}}?", "No ||| Yes", "[...] Yes or No/Yes?"),
        ("Pick {{answer_choices[1]}}: {{label}}", "{{text}} ||| b", "Pick [...]: [...]"),
        ("{% if label == 1 %}Say it because{% else %}Say it so{% endif %} that ||| a", None, "Say it [...] that"),
        ("{% if label == 1 %}Say {{text}}{% endif %}! ||| a", None, "Say [...]!"),
        ("{% if label == 1 %}Say a{% elif label == 2 %}Say b{% else %}Say c{% endif %}!", None, "Say [...]!"),
        ("{% if label == 1 %}Same {{text}}.{% else %}Same {{label}}.{% endif %}", None, "Same [...]."),
        ("{% if label == 1 %}{{text}} how? ||| a{% endif %}", None, "[...] how?"),
        ("{% for one in names %}- {{one}}\n{% endfor %}Which? ||| a", None, "- [...]\nWhich?"),
        ("{% set words = ['Read', 'See'] %}{{words | choice}} {{ ['this', 'that'] | choice }} text", None,
         "[...] [...] text"),
        ("{{text}}\n{{label}}?! ||| word", None, ""),
    ],
)  # fmt: skip
def test_what_stands_for_a_template(jinja: str, choices: str | None, instruction: str) -> None:
    assert template(jinja, choices).instruction == instruction


def test_a_template_that_cannot_be_put_into_words_is_named() -> None:
    with pytest.raises(DataError, match=r"^templates\.yaml: template 'ask' cannot be rendered: "):
        _ = template("{{ 1 // 0 }} words").instruction


FILE = """\
dataset: mine
templates:
  9b6: !Template
    answer_choices: Yes ||| No
    id: 9b6
    jinja: '{{text}} so? ||| {{answer_choices[label]}}'
    metadata: !TemplateMetadata
      original_task: true
    name: "is it\\u2026 so / so?"
    reference: ''
  2c4: !Template
    answer_choices: null
    jinja: '{{text}} ||| {{label}}'
    metadata: !TemplateMetadata
      original_task: false
    name: other
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "templates.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, FILE)
    first, second = read_templates(path)
    assert (first.name, first.key, first.original_task) == ("is it… so / so?", "is_it_so_so_", True)
    assert (first.jinja, first.answer_choices) == ("{{text}} so? ||| {{answer_choices[label]}}", "Yes ||| No")
    assert (second.name, second.answer_choices, second.original_task) == ("other", None, False)
    assert first.where == f"{path}: template 'is it… so / so?'"


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("!TemplateMetadata\n      original_task: false", "!!python/object/apply:os.getcwd []", "expected YAML as"),
        ("!Template\n    answer_choices: null", "!Other\n    answer_choices: null", "expected YAML as promptsource"),
        ("dataset: mine", "dataset: &a {b: 1}\nmore:\n  <<: *a", "expected YAML as promptsource writes it"),
        ("templates:", "templates: [", "expected YAML as promptsource writes it"),
        ("dataset: mine\ntemplates:", "dataset: mine\nprompts:", "templates: expected a value, got nothing"),
        ("    name: other\n", "", "templates.2c4.name: expected a value, got nothing"),
        ("    jinja: '{{text}} ||| {{label}}'\n", "", "templates.2c4.jinja: expected a value, got nothing"),
        ("'{{text}} ||| {{label}}'", "7", "templates.2c4.jinja: expected text, got 7"),
        ("answer_choices: null", "answer_choices: [a]", "templates.2c4.answer_choices: expected text"),
        ("original_task: false", "original_task: nope", "metadata.original_task: expected true or false, got 'nope'"),
        ("name: other", 'name: "is it so: so?"', "expected a name that no other template has, got 'is it so: so?'"),
    ],
)
def test_a_malformed_file_is_named(tmp_path: Path, old: str, new: str, named: str) -> None:
    assert old in FILE
    path = write(tmp_path, FILE.replace(old, new))
    with pytest.raises(DataError) as caught:
        read_templates(path)
    assert str(caught.value).startswith(str(path))
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_templates(tmp_path / "templates.yaml")
