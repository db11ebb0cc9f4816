"""Inspection of models: attention weights, heads, figures, parameters, invariants."""
