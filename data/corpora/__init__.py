"""Corpora by name: the sources of each text, its licence, and the hashes that identify it.

A corpus is any object with the members of the protocol `Corpus` (data/corpora/corpus.py). To add one (for example, a
tensorflow-datasets builder), write a class and register an instance: CORPORA["mine"] = MyCorpus().
"""

import re

from data.corpora.corpus import Corpus, OfDocuments
from data.corpora.generated import GeneratedClasses, GeneratedTreebank, GrammarCorpus, GrammarDocuments
from data.corpora.labelled import LabelFiles, TreebankTags
from data.corpora.multi30k import multi30k
from data.corpora.open_treebanks import wsj_craft, wsj_sample
from data.corpora.own import FilesCorpus, TreebankFiles, own_files, own_trees
from data.corpora.wmt14 import wmt14
from data.corpora.wsj import WSJ
from data.labels.targets import MARKS, OF_WORDS
from data.languages import Languages
from data.text import SEPARATOR
from data.treebanks.linear import TAGS
from transformer.config import DataConfig, UserError
from transformer.registry import Registry

CORPORA: Registry[Corpus] = Registry(
    "data.corpus",
    {
        corpus.name: corpus
        for corpus in (
            GrammarCorpus(),
            GrammarDocuments(),
            multi30k("de"),
            multi30k("fr"),
            wmt14("de"),
            wmt14("fr"),
            GeneratedTreebank(),
            wsj_sample(),
            wsj_craft(),
            WSJ("wsj", silver=False),
            WSJ("wsj-semi", silver=True),
            GeneratedClasses(),
            TreebankTags("generated-tags", GeneratedTreebank()),
            TreebankTags("wsj-sample-tags", wsj_sample()),
            TreebankTags("wsj-craft-tags", wsj_craft()),
            TreebankTags("wsj-tags", WSJ("wsj", silver=False)),
        )
    },
)
"""Corpora by name: instances of classes with the members of `Corpus`."""


def find_corpus(config: DataConfig) -> Corpus:
    """Returns the corpus of a configuration: user-defined files if any are given, else the corpus with that name.

    UserError for an unknown name, an incomplete set of files, a train_pairs below 1, data.languages or data.documents
    combined with a named corpus, or data.context with one without documents.
    """
    if config.train_pairs is not None and config.train_pairs < 1:
        raise UserError(f"data.train_pairs must be at least 1, not {config.train_pairs}")
    if config.documents == "column" and (config.task in TAGS or config.task in MARKS):
        raise UserError(f"data.documents is for pairs of sentences: leave it out with data.task {config.task}")
    if config.task in TAGS and (own := own_trees(config)):
        return TreebankFiles(own)
    if config.task in MARKS and (own := own_trees(config)):
        mark, separable = MARKS[config.task], SEPARATOR in config.symbol_list or config.vocabulary is not None
        return LabelFiles(own, of_words=mark == OF_WORDS, separable=separable)
    if (own := own_files(config)) or config.corpus == "files":
        languages_of(config)
        return FilesCorpus(own, languages=config.languages, documents=config.documents)
    corpus = CORPORA.find(config.corpus)
    check_corpus(config.corpus, corpus)
    if config.documents == "column":
        raise UserError(f"data.documents is for your own text only: leave it out with data.corpus {config.corpus}")
    if config.context > 1 and not (isinstance(corpus, OfDocuments) and corpus.has_documents):
        raise UserError(
            f"{config.corpus} has no boundaries between documents, which data.context = {config.context} needs: "
            f"leave out --data.context, or give your own text with blank lines between its documents"
        )
    if config.languages is not None:
        raise UserError(
            f"data.languages is for your own text only, {config.corpus} has its own languages: --data.languages None"
        )
    return corpus


def check_corpus(name: str, corpus: Corpus) -> None:
    """UserError if a user-defined corpus does not satisfy the protocol `Corpus`."""
    if isinstance(corpus, type):
        raise UserError(f"data.corpus {name!r} is a class: register an instance of it in CORPORA")
    for member in ("name", "licence", "languages", "sources", "pairs"):
        if not hasattr(corpus, member):
            raise UserError(f"data.corpus {name!r} has no `{member}`, which data.corpora.corpus.Corpus requires")
    if corpus.name != name or not re.fullmatch(r"\w[\w.-]*", name):
        raise UserError(
            f"data.corpus {name!r} has the name {corpus.name!r}: use the same single word as name and as key of CORPORA"
        )
    if corpus.languages is not None:
        Languages.parse(corpus.languages)


def is_own_text(config: DataConfig) -> bool:
    """Whether the corpus consists of user-defined files, which may no longer exist."""
    return config.corpus == "files" or config.train_src is not None or config.train_tgt is not None


def languages_of(config: DataConfig) -> Languages | None:
    """Returns the languages of the corpus, or None if unknown. User-defined files need not exist.

    UserError for invalid language codes, and, as in `find_corpus`, for an invalid corpus.
    """
    if is_own_text(config):
        said = config.languages
    else:
        corpus = CORPORA.find(config.corpus)
        check_corpus(config.corpus, corpus)
        said = corpus.languages
    return None if said is None else Languages.parse(said)
