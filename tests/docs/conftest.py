"""The small trained run of the tests of experiments/."""

from tests.experiments.conftest import micro, run, text  # noqa: F401
