"""Before a run: what an experiment is, takes and costs."""
