"""The command-line application: its commands, and its handling of errors."""

import os
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer
from typer.exceptions import TyperException

from tagi import __version__
from tagi.activity import telling
from tagi.cli import recipes
from tagi.cli.compare import compare
from tagi.cli.demo import demo
from tagi.cli.describe import describe
from tagi.cli.evaluate import evaluate
from tagi.cli.export import export
from tagi.cli.flops import flops
from tagi.cli.generate import generate
from tagi.cli.methods import methods
from tagi.cli.predict import predict
from tagi.cli.refine import refine
from tagi.cli.report import report
from tagi.cli.run import run
from tagi.cli.serve import serve
from tagi.cli.sweep import sweep
from tagi.cli.time import time
from tagi.cli.train import TrainCommand, train
from tagi.cli.verify import verify
from tagi.errors import InputError, TagiError

app = typer.Typer(
    name="tagi",
    help="Generate LoRA adapters from task instructions, and train, evaluate and serve the generators.",
    epilog="Help and examples for one command: tagi COMMAND --help",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _print_version(asked: bool) -> bool:
    if asked:
        typer.echo(f"tagi {__version__}")
        raise typer.Exit
    return asked


Version = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
]


@app.callback()
def _options(version: Version = False) -> None:
    """Options of `tagi` itself."""


_COMMANDS = (
    *(demo, generate, predict, export, verify, refine, serve),
    *(train, run, sweep),
    *(evaluate, compare, report, methods, describe, flops, time),
)
for _command in _COMMANDS:  # in the order of the help
    app.command(cls=TrainCommand if _command is train else None)(_command)
app.add_typer(recipes.app, name="recipes")

INTERRUPTED = 130
# Keep libraries from printing progress bars and advice. They read these variables when they are imported.
_QUIET = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit with 0, with 2 and one line on stderr for a user error, or with 130 if interrupted."""
    os.environ.update({**_QUIET, **os.environ})
    try:
        _check_text(sys.argv[1:] if arguments is None else arguments)
        with telling():
            code = app(args=arguments, prog_name="tagi", standalone_mode=False)
    except TagiError as fault:
        _end(" ".join(str(fault).splitlines()))
    except TyperException as fault:
        _misused(fault)
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except OSError as fault:
        if fault.filename is None:  # not about a path that the user gave: a bug
            raise
        _end(f"{fault.filename}: expected a path that can be used, got: {fault.strerror}")
    if code == INTERRUPTED:  # typer handles Ctrl-C itself and prints nothing
        print(
            "interrupted: finished parts are kept. To continue, run the same command again "
            "(train, refine and evaluate need --resume)",
            file=sys.stderr,
        )
    sys.exit(code if isinstance(code, int) else 0)


def _check_text(arguments: Sequence[str]) -> None:
    """Raise `InputError` for arguments that are not UTF-8, which Python passes on as lone surrogates."""
    for number, argument in enumerate(arguments, start=1):
        if any("\udc80" <= letter <= "\udcff" for letter in argument):
            raw = os.fsencode(argument)
            raise InputError(f"argument {number}: expected UTF-8 text, got {raw[:40]!r}")


def _misused(fault: TyperException) -> NoReturn:
    """Report a wrong option or argument; a command called without its arguments shows its help."""
    message, context = fault.format_message(), getattr(fault, "ctx", None)
    if message.startswith("Usage:"):
        print(message, file=sys.stderr)
        sys.exit(2)
    command = "tagi" if context is None else context.command_path
    _end(f"{' '.join(message.split())} (see {command} --help)")


def _end(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)
