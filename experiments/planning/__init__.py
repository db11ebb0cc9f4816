"""Before a run: what an experiment is, what it needs and what it costs."""
