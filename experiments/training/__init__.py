"""The training loop, what it shows while it runs, and what guards it."""
