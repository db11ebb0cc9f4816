"""What `evaluate` translates: a split of the run's own corpus, a further test set by its name, or two files."""

import re
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from sacrebleu.utils import get_reference_files, get_source_file

from data.corpora import HostedCorpus, SplitName, find_corpus, languages_of
from data.dataset import default_data_dir
from data.encoding import Counts, encode_pairs
from data.fetch import fetch, sha256_of
from data.held_out import held_out
from data.languages import Languages, primary
from data.text import read_pairs
from data.tokenizer import Tokenizer
from experiments.translator import Translator
from transformer.checkpoint import brief
from transformer.config import UserError

Log = Callable[[str], object]


class TestSet(NamedTuple):
    """A text with its translation."""

    name: str
    """Of what stands under <run>/evaluation/."""
    label: str
    """For people: "multi30k-en-de test", "newstest2014, en-fr"."""
    sources: list[str]
    references: list[str]
    files: dict[str, dict[str, str]]
    """What they were read from, by role ("test.source"): name and SHA-256."""
    counts: dict[str, Any]
    """Its lines and tokens, and what of it the vocabulary has no piece for (data.encoding.Counts.facts)."""
    languages: Languages | None


def own_split(translator: Translator, split: SplitName, log: Log, said: Languages | None = None) -> TestSet:
    """A split of the corpus that a run was trained on. `said`: its languages, where the run does not know better."""
    data, trained = translator.experiment.data, translator.meta["data"]
    found = held_out(data, split, translator.tokenizer, trained, log=log)
    languages, label = said or languages_of(data), f"{trained['corpus']} {split}"
    if trained["corpus"] == "files":
        label = label_of(Path(found.files[f"{split}.source"]["name"]), languages)
    return TestSet(split, label, found.sources, found.references, found.files, found.counts, languages)


def find_test_set(name: str, translator: Translator, languages: Languages | None, log: Log) -> TestSet:
    """A further test set: of the run's corpus (test_2017_flickr of Multi30k), or of sacreBLEU's (wmt17, wmt14/full).

    UserError if there is none of that name in these languages, or if it cannot be had.
    """
    corpus = find_corpus(translator.experiment.data)
    further = corpus.test_sets if isinstance(corpus, HostedCorpus) else {}
    if name in further:
        source, target = (fetch(file, default_data_dir() / "downloads", log) for file in further[name])
        found = read_files(source, target, translator.tokenizer, languages, name, f"{corpus.name} {name}")
        return renamed(found, [file.address for file in further[name]])
    if languages is None:
        raise UserError(f"test set {name!r} is of two languages: say which with --data.languages")
    try:
        pair = "-".join(map(primary, languages))
        source, target = Path(get_source_file(name, pair)), Path(get_reference_files(name, pair)[0])
    except (Exception, SystemExit) as error:  # sacrebleu leaves the process where it knows no such set
        own = "".join(f", {known}" for known in further)
        raise UserError(
            f"no test set {name!r} of {languages}: there are test, dev{own} and sacreBLEU's "
            f"(sacrebleu --list); {brief(error)}"
        ) from error
    label, file_name = f"{name}, {languages}", re.sub(r"[^\w-]", "-", name)
    found = read_files(source, target, translator.tokenizer, languages, file_name, label)
    return renamed(found, [f"sacrebleu {name} {path.name}" for path in (source, target)])


def renamed(test_set: TestSet, names: list[str]) -> TestSet:
    """The same with names that mean something on other machines too, source and target, for its files."""
    pairs = zip(test_set.files.items(), names, strict=True)
    return test_set._replace(files={role: facts | {"name": name} for (role, facts), name in pairs})


def read_files(
    source: Path,
    target: Path,
    tokenizer: Tokenizer,
    languages: Languages | None,
    name: str | None = None,
    label: str | None = None,
) -> TestSet:
    """Two files, line by line: every line of theirs is scored, blank ones too.

    Without a name it is the source's, with the beginning of a hash of both: another text has another name.
    """
    pairs = list(read_pairs(source, target))
    hashes = sha256_of(source), sha256_of(target)
    name = name or f"{source.name.split('.')[0]}-{sha256(''.join(hashes).encode()).hexdigest()[:8]}"
    counts = Counts(read=len(pairs))
    for chunk in encode_pairs(iter(pairs), tokenizer, None):
        counts.add(chunk)
    sides = zip(("source", "target"), (source, target), hashes, strict=True)
    return TestSet(
        name,
        label or label_of(source, languages),
        [a for a, _ in pairs],
        [b for _, b in pairs],
        {f"{name}.{side}": {"name": str(path), "sha256": digest} for side, path, digest in sides},
        counts.facts(),
        languages,
    )


def label_of(file: Path, languages: Languages | None) -> str:
    """Of a file's text, for people."""
    stem = file.name.split(".")[0]
    return f"{stem}, {languages}" if languages else stem
