"""Relative timing of methods."""
