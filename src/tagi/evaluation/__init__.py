"""Evaluation: conditions, scoring, timing and reports."""
