"""Files of P3 made for tests: promptsource's templates."""

import json
from pathlib import Path


def put_templates(folder: Path, **templates: tuple[str, str | None, bool]) -> Path:
    """promptsource's file, of `name=(jinja, answer_choices, original_task)`."""
    lines = ["templates:"]
    for at, (name, (jinja, choices, original)) in enumerate(templates.items()):
        lines += [f"  {at}: !Template", f"    name: {json.dumps(name.replace('_', ' '))}"]
        lines += [f"    jinja: {json.dumps(jinja)}", f"    answer_choices: {json.dumps(choices)}"]
        lines += ["    metadata: !TemplateMetadata", f"      original_task: {json.dumps(original)}"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "templates.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
