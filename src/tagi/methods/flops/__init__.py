"""FLOPs of every method, from shapes and lengths."""
