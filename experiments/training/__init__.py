"""The training loop, its progress display, and its safeguards."""
