"""Reports and comparisons from the records of many runs."""
