"""Text to tokens: encodings, chat templates and padded batches."""
