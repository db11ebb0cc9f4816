"""The folder of the documentation's example components."""

from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
