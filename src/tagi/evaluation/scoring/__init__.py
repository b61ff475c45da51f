"""Generating and scoring answers."""
