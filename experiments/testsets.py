"""What `evaluate` translates: a split of the run's own corpus, a further test set by its name, or two files."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from sacrebleu.utils import get_reference_files, get_source_file

from data.corpora import HostedCorpus, SplitName, find_corpus, languages_of
from data.dataset import default_data_dir, prepare
from data.fetch import fetch, sha256_of
from data.languages import Languages
from data.text import read_pairs
from experiments.translator import Translator
from experiments.workdir import WorkDir
from transformer.checkpoint import brief
from transformer.config import DataConfig, UserError

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
    languages: Languages | None


def own_split(run: WorkDir, translator: Translator, split: SplitName, log: Log) -> TestSet:
    """A split of the corpus that a run was trained on."""
    data = prepare(translator.experiment.data, log=log)
    if data.tokenizer.sha256 != translator.tokenizer.sha256:
        raise UserError(f"the vocabulary of {data.path} is not the one that {run.path} was trained with")
    files = {role: facts for role, facts in data.manifest["sources"].items() if role.split(".")[0] == split}
    sources, references = data.text(split, "source"), data.text(split, "target")
    if len(sources) != len(references):
        raise UserError(
            f"{len(sources)} sources and {len(references)} references in {data.path}: it has to be made anew"
        )
    languages, corpus = languages_of(translator.experiment.data), translator.meta["data"]["corpus"]
    label = f"{corpus} {split}"
    if corpus == "files":
        label = label_of(Path(files[f"{split}.source"]["name"]), languages)
    return TestSet(split, label, sources, references, files, languages)


def find_test_set(name: str, data: DataConfig, languages: Languages | None, log: Log) -> TestSet:
    """A further test set: of the run's corpus (test_2017_flickr of Multi30k), or of sacreBLEU's (wmt17, wmt14/full).

    UserError if there is none of that name in these languages, or if it cannot be had.
    """
    corpus = find_corpus(data)
    further = corpus.test_sets if isinstance(corpus, HostedCorpus) else {}
    if name in further:
        source, target = (fetch(file, default_data_dir() / "downloads", log) for file in further[name])
        return read_files(source, target, languages, name, f"{corpus.name} {name}")
    if languages is None:
        raise UserError(f"test set {name!r} is of two languages: say which with --data.languages")
    try:
        source = Path(get_source_file(name, str(languages)))
        target = Path(get_reference_files(name, str(languages))[0])
    except (Exception, SystemExit) as error:  # sacrebleu leaves the process where it knows no such set
        own = "".join(f", {known}" for known in further)
        raise UserError(
            f"no test set {name!r} of {languages}: there are test, dev{own} and sacreBLEU's "
            f"(sacrebleu --list); {brief(error)}"
        ) from error
    return read_files(source, target, languages, re.sub(r"[^\w-]", "-", name), f"{name}, {languages}")


def read_files(
    source: Path, target: Path, languages: Languages | None, name: str | None = None, label: str | None = None
) -> TestSet:
    """Two files, line by line: every line of theirs is scored, blank ones too.

    Without a name it is the source's, with the beginning of its hash: another text has another name.
    """
    pairs = list(read_pairs(source, target))
    hashes = sha256_of(source), sha256_of(target)
    name = name or f"{source.name.split('.')[0]}-{hashes[0][:8]}"
    sides = zip(("source", "target"), (source, target), hashes, strict=True)
    return TestSet(
        name,
        label or label_of(source, languages),
        [a for a, _ in pairs],
        [b for _, b in pairs],
        {f"{name}.{side}": {"name": str(path), "sha256": sha256} for side, path, sha256 in sides},
        languages,
    )


def label_of(file: Path, languages: Languages | None) -> str:
    """Of a file's text, for people."""
    stem = file.name.split(".")[0]
    return f"{stem}, {languages}" if languages else stem
