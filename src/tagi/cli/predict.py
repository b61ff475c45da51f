"""`tagi predict`: answers to inputs."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from tagi.activity import activity, be_quiet
from tagi.cli.generate import Base, Examples, OwnGenerator, example_of
from tagi.cli.output import QuietFlag, print_quality
from tagi.data.readers.lines import read_lines
from tagi.errors import InputError

Inputs = Annotated[list[str] | None, typer.Argument(metavar="[INPUT]...", help="Inputs. Default: the lines of stdin.")]
Adapter = Annotated[Path | None, typer.Option("--adapter", "-a", metavar="DIR", help="Adapter folder.")]
Instruction = Annotated[
    str | None,
    typer.Option(
        "--instruction", "-i", metavar="TEXT", help="Generate an adapter from this instruction first (instead of -a)."
    ),
]
File = Annotated[
    Path | None, typer.Option("--file", "-f", metavar="FILE", help="File with one input per line (UTF-8).")
]
Beams = Annotated[int, typer.Option("--beams", min=1, max=100, help="Number of beams; 1 is greedy decoding.")]
MaxTokens = Annotated[
    int | None, typer.Option("--max-new-tokens", min=1, help="Maximum length of an answer in tokens.")
]
Truncate = Annotated[bool, typer.Option("--truncate", help="Truncate texts that exceed the generator's length limits.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON Lines with input and prediction.")]


def predict(
    inputs: Inputs = None,
    adapter: Adapter = None,
    instruction: Instruction = None,
    generator: OwnGenerator = None,
    base: Base = None,
    example: Examples = None,
    file: File = None,
    beams: Beams = 1,
    max_new_tokens: MaxTokens = None,
    truncate: Truncate = False,
    quiet: QuietFlag = False,
    as_json: AsJson = False,
) -> None:
    """Answer inputs with a saved adapter, or with one generated from an instruction.

    \b
    Examples:
      tagi predict -a adapter "She walks to the station."
      tagi predict -i "Write the sentence in the past tense." "She walks to the station."
      tagi predict -g toy -i "take the tool and the animal and make each one plural ." "cat river king pen soup"
      tagi predict -a adapter --file inputs.txt --json > answers.jsonl
      cat inputs.txt | tagi predict -a adapter --beams 4
    """
    if quiet:
        be_quiet()
    examples = list(map(example_of, example or []))
    if adapter is not None and (instruction is not None or examples):
        raise InputError(f"expected one of -a and {'-i' if instruction is not None else '--example'}, got both")
    if adapter is None and instruction is None and not examples:
        raise InputError("expected one of -a and -i, got neither")
    texts = _texts(inputs, file)
    from tagi.api.generator import AdapterGenerator
    from tagi.api.task_adapter import TaskAdapter

    if adapter is not None:
        task = TaskAdapter.from_pretrained(adapter, generator, base=base)
    else:
        made = AdapterGenerator.from_pretrained(generator or "smollm2", base=base)
        task = made.adapt(instruction or "", examples, truncate=truncate)
    if not quiet:
        print_quality(task.generator.source)
    answers = task.predict(texts, max_new_tokens=max_new_tokens, num_beams=beams, truncate=truncate)
    for text, answer in zip(texts, answers, strict=True):
        typer.echo(json.dumps({"input": text, "prediction": answer}, ensure_ascii=False) if as_json else answer)


def _texts(inputs: list[str] | None, file: Path | None) -> list[str]:
    if inputs and file is not None:
        raise InputError("expected inputs as arguments or in --file, got both")
    if inputs:
        return inputs
    if file is not None:
        return read_lines(file.read_bytes(), str(file))
    with activity(None):  # somebody may be typing
        return read_lines(sys.stdin.buffer.read(), "stdin")
