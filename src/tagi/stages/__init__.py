"""Training stages and evaluation, and running and sweeping recipes."""
