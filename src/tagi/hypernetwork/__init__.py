"""From instructions to adapters: generators, fusion, the assembled model and what it keeps of a task."""
