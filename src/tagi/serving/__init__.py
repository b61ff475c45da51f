"""An OpenAI-compatible server that generates adapters on demand."""
