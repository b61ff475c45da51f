"""One trainer for any method."""
