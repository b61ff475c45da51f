"""The finetuning objective: losses, teachers and their caches."""
