"""Corpus files for tests: sentences of the grammar, in the format of user-defined text."""

from collections.abc import Mapping
from pathlib import Path

from data import grammar


def write_text(folder: Path, sizes: Mapping[str, int]) -> dict[str, str]:
    """Writes {train,dev,test}.{en,de} with this many pairs, and returns the fields of DataConfig that name them."""
    settings = {}
    for split, count in sizes.items():
        pairs = list(grammar.pairs(split, count))  # type: ignore[arg-type]
        for side, (name, language) in enumerate((("src", "en"), ("tgt", "de"))):
            path = folder / f"{split}.{language}"
            path.write_text("".join(pair[side] + "\n" for pair in pairs), encoding="utf-8")
            settings[f"{split}_{name}"] = str(path)
    return settings
