"""Every group of settings once: torch-free dataclasses and the recipe that holds them."""
