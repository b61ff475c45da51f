"""`python -m tagi` is the `tagi` command."""

from tagi.cli.app import main

if __name__ == "__main__":
    main()
