"""Generated modules, and their attachment to a model during a call."""
