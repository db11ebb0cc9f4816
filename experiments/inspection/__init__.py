"""What a model has learned and keeps: attention weights, heads, figures, invariants."""
