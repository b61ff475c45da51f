"""Many runs' records as one page and as tables: what is comparable put together, what is not named."""
