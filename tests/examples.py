"""Where the worked examples of the documentation stand: parts as a user writes them."""

from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
