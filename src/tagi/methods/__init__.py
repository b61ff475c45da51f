"""Methods: ways to do tasks from instructions, behind one protocol."""
