"""Validation and test data of a run, tokenized with the vocabulary of the run.

The text is identified by its hash, so it may have moved. The run's other text need not exist.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.corpora import find_corpus
from data.corpora.corpus import Log, SplitName
from data.corpora.own import FilesCorpus
from data.dataset import SIDES, checked_pairs, default_data_dir, open_prepared, os_errors_explained, prepared_of_hash
from data.documents import examples, kept
from data.encoding import Chunk, Counts, encode_pairs
from data.text import Pair
from data.tokenizer import Tokenizer
from data.tokens import Split, Tokens
from transformer.config import DataConfig, UserError


class HeldOut(NamedTuple):
    """Sentence pairs of dev or test, without blank pairs. Of documents, with a blank pair between two."""

    sources: list[str]
    references: list[str]
    tokens: Split
    """The same pairs, tokenized. Of documents, each with those before it (data.documents.examples)."""
    files: dict[str, dict[str, str]]
    """The "name" and "sha256" of each source, by role such as "test.source"."""
    counts: dict[str, Any]
    """Statistics as in the manifest of prepared data (data.encoding.Counts.facts)."""


def held_out(
    config: DataConfig,
    split: SplitName,
    tokenizer: Tokenizer,
    trained: dict[str, Any],
    data_dir: Path | None = None,
    log: Log = print,
) -> HeldOut:
    """Loads dev or test of a run from its prepared data, if that still exists, or else from the text of this split.

    Args:
        trained: the entry "data" in the `meta` of the run's checkpoints.

    Raises:
        UserError: neither exists, or the text has changed since the run was trained.
    """
    data_dir = default_data_dir() if data_dir is None else data_dir
    if path := prepared_of_hash(trained["hash"], data_dir):
        data = open_prepared(path)
        if data.tokenizer.sha256 != tokenizer.sha256:
            raise UserError(f"the vocabulary of {path} is not the one that this run was trained with")
        data.check(split)
        files = {role: facts for role, facts in data.manifest["sources"].items() if role.split(".")[0] == split}
        sources, references = (data.text(split, side) for side in SIDES)
        return HeldOut(
            sources, references, getattr(data, split), _checked(files, trained), data.manifest["splits"][split]
        )
    corpus = find_corpus(config)
    if isinstance(corpus, FilesCorpus):
        corpus = replace(corpus, files={split: corpus.files[split]})
        if gone := [str(path) for path in corpus.files[split] if not path.exists()]:
            raise UserError(
                f"{gone[0]}: no such file, and {data_dir} ($DATA_DIR) does not contain its prepared data: set DATA_DIR "
                f"to the folder that does, or correct the path in the run's config.json"
            )
    with os_errors_explained(data_dir):
        found = corpus.sources(data_dir / "downloads", log)
        files = {role: source._asdict() for role, source in found.items() if role.split(".")[0] == split}
        pairs = corpus.pairs(split, None, data_dir / "downloads", log)
        return _read(pairs, split, tokenizer, _checked(files, trained), config)


def _checked(files: dict[str, dict[str, str]], trained: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Returns `files`. UserError names a file that has changed since the run was trained."""
    for role, facts in files.items():
        if facts["sha256"] != trained["sources"].get(role, facts)["sha256"]:
            raise UserError(
                f"{facts['name']} ({role}) is not the text that this run was trained with: its SHA-256 differs, so it "
                f"has changed or is a different file"
            )
    return files


def _read(
    pairs: Iterator[Pair], split: SplitName, tokenizer: Tokenizer, files: dict[str, dict[str, str]], config: DataConfig
) -> HeldOut:
    counts = Counts()
    found = list(kept(checked_pairs(pairs, split), split, counts, config.context))
    chunks = list(encode_pairs(examples(found, config.context), tokenizer, config.max_length, drop=False))
    for chunk in chunks:
        counts.add(chunk)
    if not counts.kept:
        raise UserError(f"no sentence pair is left in {split}: {counts.read} read, {counts.blank} blank")
    tokens = Split(*(_joined(chunks, side, each) for side, each in enumerate((tokenizer.source, tokenizer))))
    return HeldOut([a for a, _ in found], [b for _, b in found], tokens, files, counts.facts())


def _joined(chunks: list[Chunk], side: int, tokenizer: Tokenizer) -> Tokens:
    flat, lengths = (np.concatenate([chunk.sides[side][n] for chunk in chunks]) for n in (0, 1))
    return Tokens(flat, np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]), tokenizer.size)
