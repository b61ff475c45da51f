"""Methods: TAGI and its baselines, with one interface."""
