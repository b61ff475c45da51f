"""Tasks and text: the task model, readers, encoding and collating."""
