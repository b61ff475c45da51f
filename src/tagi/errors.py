"""User errors. Each message is one line that says what was expected, what was given, and where."""


class TagiError(Exception):
    """Base class of user errors. The command line prints the message and exits with code 2."""


class DataError(TagiError):
    """A task file or data folder is invalid. The message names file, line and field."""


class ConfigError(TagiError):
    """A recipe or an override is invalid. The message names all errors of the recipe."""


class CheckpointError(TagiError):
    """A generator, adapter or checkpoint is damaged, of another format, or made for another base model."""


class InputError(TagiError):
    """An argument is invalid, such as an empty instruction or an input that exceeds the length limit."""


class TrainingError(TagiError):
    """A training run cannot continue: the loss is not finite, or the folder holds another run."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
