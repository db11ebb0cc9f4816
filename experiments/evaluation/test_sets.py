"""Test sets for `evaluate`: a split of the run's own corpus, another test set by name, or two files."""

import re
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from sacrebleu.dataset import DATASETS
from sacrebleu.utils import get_reference_files, get_source_file

from data.corpora import find_corpus, languages_of
from data.corpora.corpus import SplitName, WithTestSets
from data.corpora.own import by_document, read_text
from data.dataset import default_data_dir
from data.encoding import Counts, encode_pairs
from data.fetch import sha256_of
from data.held_out import held_out
from data.labels.files import sentences_in, texts_in
from data.labels.targets import OF_WORDS
from data.languages import Languages, primary
from data.text import BOUNDARY, Pair, read_lines, read_pairs
from data.tokenizer import Tokenizer
from experiments.translator import Translator
from transformer.checkpoint import brief
from transformer.config import DataConfig, UserError

Log = Callable[[str], object]


class TestSet(NamedTuple):
    """Sources with their reference translations."""

    name: str
    """Stem of the files under <run>/evaluation/."""
    label: str
    """Human-readable name: "multi30k-en-de test", "newstest2014, en-fr"."""
    sources: list[str]
    """Of documents, with a blank line between two, as `references` have."""
    references: list[str]
    files: dict[str, dict[str, str]]
    """The files that they were read from, by role ("test.source"): name and SHA-256."""
    counts: dict[str, Any]
    """Numbers of lines and tokens, and the characters that are not in the vocabulary (data.encoding.Counts.facts)."""
    languages: Languages | None


def own_split(translator: Translator, split: SplitName, log: Log, languages: Languages | None = None) -> TestSet:
    """Returns a split of the corpus that a run was trained on; of an ensemble, that of its first run.

    Args:
        languages: the languages of the corpus. None: as the settings of the run say.
    """
    first = translator.members[0][1] if translator.members else translator
    data, trained = translator.experiment.data, first.meta["data"]
    found = held_out(data, split, translator.tokenizer, trained, log=log)
    languages, label = languages or languages_of(data), f"{trained['corpus']} {split}"
    if trained["corpus"] == "files":
        label = label_of(Path(found.files[f"{split}.source"]["name"]), languages)
    return TestSet(split, label, found.sources, found.references, found.files, found.counts, languages)


def find_test_set(name: str, translator: Translator, languages: Languages | None, log: Log) -> TestSet:
    """Returns a test set by name: of the run's corpus (test_2017_flickr of Multi30k) or of sacreBLEU (wmt17).

    UserError if there is no such test set in these languages, or if it cannot be downloaded.
    """
    corpus = find_corpus(translator.experiment.data)
    further = corpus.test_sets if isinstance(corpus, WithTestSets) else ()
    if isinstance(corpus, WithTestSets) and name in further:
        pairs, sources = corpus.test_set(name, default_data_dir() / "downloads", log)
        files = {f"{name}.{side}": source._asdict() for side, source in sources.items()}
        if translator.experiment.data.context > 1:
            raise UserError(
                f"{name} of {corpus.name} has no boundaries between documents, and this run is of documents"
            )
        return of_pairs(name, f"{corpus.name} {name}", pairs, files, translator.tokenizer, languages)
    if languages is None:
        own = f"those of {corpus.name} are test, dev{''.join(f', {known}' for known in further)}; "
        raise UserError(
            f"unknown test set {name!r}: {own}for one of sacreBLEU, give the languages with --data.languages"
        )
    try:
        pair = "-".join(map(primary, languages))
        source, target = Path(get_source_file(name, pair)), Path(get_reference_files(name, pair)[0])
    except (Exception, SystemExit) as error:  # sacrebleu exits the process for an unknown test set
        own = "".join(f", {known}" for known in further)
        raise UserError(
            f"no test set {name!r} for {languages}: the test sets are test, dev{own} and those of sacreBLEU "
            f"(sacrebleu --list); {brief(error)}"
        ) from error
    label, file_name = f"{name}, {languages}", re.sub(r"[^\w-]", "-", name)
    data = translator.experiment.data
    ids = ids_of_documents(name, pair) if data.context > 1 else None
    found = read_files(source, target, translator.tokenizer, languages, file_name, label, data, ids)
    return renamed(found, [f"sacrebleu {name} {path.name}" for path in (source, target)])


def ids_of_documents(name: str, pair: str) -> Path:
    """Returns the file of sacreBLEU with the document of each line of a test set. UserError if it has none."""
    fields = dict(zip(DATASETS[name].fieldnames(pair), DATASETS[name].get_files(pair), strict=False))
    if "docid" not in fields:
        raise UserError(f"{name} has no boundaries between documents, and this run is of documents (data.context)")
    return Path(fields["docid"])


def renamed(test_set: TestSet, names: list[str]) -> TestSet:
    """Returns a test set with other names for its two files, names that do not depend on this machine."""
    pairs = zip(test_set.files.items(), names, strict=True)
    return test_set._replace(files={role: facts | {"name": name} for (role, facts), name in pairs})


def read_files(
    source: Path,
    target: Path,
    tokenizer: Tokenizer,
    languages: Languages | None,
    name: str | None = None,
    label: str | None = None,
    data: DataConfig | None = None,
    ids: Path | None = None,
) -> TestSet:
    """Reads a test set from two files. Every line is scored, including blank ones.

    The default name is the stem of the source file with the beginning of a hash of both files, so that different texts
    have different names.

    Args:
        data: of the run: how the files separate documents, and whether that matters.
        ids: a file with the name of the document of each line.
    """
    data = data or DataConfig()
    found = (
        by_document(read_lines(ids), read_pairs(source, target)) if ids else read_text(source, target, data.documents)
    )
    pairs = [pair for pair in found if pair is not BOUNDARY or data.context > 1]
    hashes = sha256_of(source), sha256_of(target)
    name = name or f"{source.name.split('.')[0]}-{sha256(''.join(hashes).encode()).hexdigest()[:8]}"
    sides = zip(("source", "target"), (source, target), hashes, strict=True)
    files = {f"{name}.{side}": {"name": str(path), "sha256": digest} for side, path, digest in sides}
    return of_pairs(name, label or label_of(source, languages), pairs, files, tokenizer, languages)


def read_labelled(path: Path, mark: str, tokenizer: Tokenizer, languages: Languages | None) -> TestSet:
    """Reads a test set from one file of labelled text.

    Args:
        mark: what the labels are of (data/labels/targets.py).
    """
    pairs, digest = list((sentences_in if mark == OF_WORDS else texts_in)(path)), sha256_of(path)
    name = f"{path.name.split('.')[0]}-{digest[:8]}"
    files = {f"{name}.target": {"name": str(path), "sha256": digest}}
    return of_pairs(name, label_of(path, languages), pairs, files, tokenizer, languages)


def of_pairs(
    name: str,
    label: str,
    pairs: list[Pair],
    files: dict[str, dict[str, str]],
    tokenizer: Tokenizer,
    languages: Languages | None,
) -> TestSet:
    """Returns a test set of sentence pairs, after counting their tokens."""
    lines = [pair for pair in pairs if pair is not BOUNDARY]
    counts = Counts(read=len(lines))
    for chunk in encode_pairs(iter(lines), tokenizer, None):
        counts.add(chunk)
    sources, references = [a for a, _ in pairs], [b for _, b in pairs]
    return TestSet(name, label, sources, references, files, counts.facts(), languages)


def label_of(file: Path, languages: Languages | None) -> str:
    """Returns a human-readable name for the text of a file."""
    stem = file.name.split(".")[0]
    return f"{stem}, {languages}" if languages else stem
