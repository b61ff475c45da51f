"""Faults a user can cause. Each message is one line: what was expected, what was got, and where."""


class TagiError(Exception):
    """A mistake in what the user gave; the command line prints it in one line and exits with code 2."""


class DataError(TagiError):
    """A task file or data folder that cannot be used (file, line and field are named)."""


class ConfigError(TagiError):
    """A recipe or an override that is not valid; all faults of a recipe are named together."""


class CheckpointError(TagiError):
    """A generator, adapter or checkpoint folder that is damaged, foreign or made for another base model."""


class InputError(TagiError):
    """An instruction or an input that cannot be processed (empty, or over a length limit)."""


class TrainingError(TagiError):
    """A training run that cannot go on (a loss that is not finite, a checkpoint of another recipe)."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, for messages of one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
