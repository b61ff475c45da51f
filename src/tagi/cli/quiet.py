"""Libraries that talk on the terminal are told not to: what a command prints is its own."""


def quiet() -> None:
    """No progress bars and no advice from transformers and the hub; warnings that concern the user are ours."""
    import os

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    disable_progress_bars()
