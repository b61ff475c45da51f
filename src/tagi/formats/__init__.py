"""Everything on disk: generators, task adapters, PEFT, merged models, GGUF, cards and records."""
