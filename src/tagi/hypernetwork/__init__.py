"""Generators: hypernetworks, fusion, the assembled model, and task states."""
