"""Readers of task files and of unlabelled text."""
