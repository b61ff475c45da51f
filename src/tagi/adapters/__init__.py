"""Generated modules and how they reach a model for the length of a call."""
