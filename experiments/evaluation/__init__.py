"""Whether a model is good: metrics, test sets, records of scored runs, and comparison of two."""
