"""Timing methods against each other."""
