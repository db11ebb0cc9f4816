"""The small trained run of the tests of experiments/."""

from tests.experiments.conftest import data_dir, micro, run, text  # noqa: F401
