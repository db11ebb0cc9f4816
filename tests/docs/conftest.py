"""Fixtures with the small trained run of tests/experiments."""

from tests.experiments.conftest import micro, run, text  # noqa: F401
