"""Training stages and evaluation: what each needs, how it is built, what it costs; running and sweeping them."""
