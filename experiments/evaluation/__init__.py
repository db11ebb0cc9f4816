"""Evaluation of trained models: metrics, test sets, records of scored runs, and comparison of two systems."""
