"""Treebanks that anyone can download: a sample of the Penn Treebank, and CRAFT.

The sample has the files wsj_0001 to wsj_0199, 3,914 trees of financial news. CRAFT has 97 articles about the biology of
the mouse, 30,830 trees in the same style with a few more labels, such as NML inside of noun phrases.
"""

from pathlib import Path

from data.corpora.corpus import SplitName
from data.corpora.hosted import HostedTreebank, Part
from data.fetch import RemoteFile

_SAMPLE = RemoteFile(
    "wsj-sample",
    "https://raw.githubusercontent.com/nltk/nltk_data/gh-pages/packages/corpora/treebank.zip",
    "9da92d76c3666cfb6cddeaed0f7e86b344cce0f0928a286d439e555f19c37399",
)
_CRAFT = "https://raw.githubusercontent.com/UCDenver-ccp/CRAFT/master/structural-annotation/treebank/penn"
_CRAFT_LICENCE = "CC BY 3.0"
_SAMPLE_LICENCE = "Linguistic Data Consortium; a sample for non-commercial use"

CRAFT_HASHES = Path(__file__).with_name("craft.sha256")
"""The articles of CRAFT, as `sha256sum` lists them."""

_SAMPLE_FILES: dict[SplitName, range] = {"train": range(1, 140), "dev": range(140, 160), "test": range(160, 200)}
_CRAFT_TEST = 4  # articles that are held out


def _sample(numbers: range) -> Part:
    """The files of the sample with these numbers."""
    return Part((_SAMPLE,), tuple(f"treebank/combined/wsj_{number:04}.mrg" for number in numbers))


def _craft(articles: slice) -> Part:
    """Some of the articles of CRAFT, in the order of their identifiers."""
    lines = CRAFT_HASHES.read_text(encoding="ascii").splitlines()
    return Part(
        tuple(RemoteFile("craft", f"{_CRAFT}/{name}", sha256) for sha256, name in map(str.split, lines[articles]))
    )


def wsj_sample() -> HostedTreebank:
    """The sample of the Penn Treebank alone."""
    return HostedTreebank(
        "wsj-sample",
        _SAMPLE_LICENCE,
        {split: (_sample(numbers),) for split, numbers in _SAMPLE_FILES.items()},
    )


def wsj_craft() -> HostedTreebank:
    """The same with most of CRAFT as further training text, and the rest of it as the further test set "craft"."""
    sample = wsj_sample()
    train = (*sample.parts["train"], _craft(slice(None, -_CRAFT_TEST)))
    return HostedTreebank(
        "wsj-craft",
        f"{_SAMPLE_LICENCE}. CRAFT: {_CRAFT_LICENCE}",
        sample.parts | {"train": train},
        {"craft": _craft(slice(-_CRAFT_TEST, None))},
    )
