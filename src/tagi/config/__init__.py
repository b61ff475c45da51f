"""Recipes: what a run is told, checked as a whole before anything starts."""
