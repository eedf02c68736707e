"""What the stage `select` does on workers: its plan, a file for each of its steps, and what is told of it."""
