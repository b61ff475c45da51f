"""File formats: generators, task adapters, PEFT, merged models, GGUF, cards and records."""
