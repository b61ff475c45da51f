"""The `tagi` command. Modules here import nothing heavy: each command imports what it needs when it runs."""

from tagi.cli.app import app, main

__all__ = ["app", "main"]
