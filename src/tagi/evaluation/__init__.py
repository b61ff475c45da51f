"""Scoring any method: metrics with intervals, and what is reported of them."""
