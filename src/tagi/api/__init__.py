"""The public classes and functions: what `tagi` exports."""
