"""Training, with one trainer for all methods."""
