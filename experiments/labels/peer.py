"""What a model that labels is compared with: logistic regression on words, by scikit-learn, on the same text.

Of texts: the words of a text, each with its TF-IDF weight. Of words: the word itself, its beginning and end, and the
words around it; the tag of each word by itself. The training text is the prepared one of the run.

scikit-learn is of the extra `bench`, and is imported only here.
"""

import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from data.dataset import PreparedData, default_data_dir, open_prepared, prepared_of_hash
from data.labels.targets import OF_WORDS, words_of
from data.text import Pair
from data.tokenizer import Tokenizer
from transformer.config import UNK, UserError

AROUND = 2
"""How many words to each side of a word are features of it."""

Labelling = Callable[[list[str]], list[str]]
"""Texts -> a line of labels of each."""


class Peer(NamedTuple):
    """A trained peer."""

    label: Labelling
    described: str
    facts: dict[str, Any]
    """What a record says of it, without its scores."""


def peer_of(trained: dict[str, Any], tokenizer: Tokenizer, data_dir: Path | None = None) -> Peer:
    """Trains the peer of a run on the text that the run was trained on.

    Args:
        trained: the entry "data" in the `meta` of the run's checkpoints.

    Raises:
        UserError: the outputs are no labels, the prepared data of the run is gone, or scikit-learn is not installed.
    """
    if not tokenizer.labels_of:
        raise UserError("--peer is for labels: the peers of translation and parsing are in benchmarks/")
    data_dir = default_data_dir() if data_dir is None else data_dir
    if (path := prepared_of_hash(trained["hash"], data_dir)) is None:
        raise UserError(
            f"--peer is trained on the prepared data of the run, which {data_dir} ($DATA_DIR) does not have"
        )
    return train_peer(open_prepared(path))


def train_peer(data: PreparedData, seed: int = 0) -> Peer:
    """Trains the peer on the training text of prepared data. UserError without scikit-learn."""
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"{error}: the peer is of scikit-learn: pip install 'attention-is-all-you-need-jax[bench]'"
        ) from error
    start = time.monotonic()
    texts, labels = zip(*training_pairs(data), strict=True)
    of_words = data.tokenizer.labels_of == OF_WORDS
    label = (_of_words if of_words else _of_texts)(list(texts), list(labels), seed)
    described = (
        f"logistic regression (SGD, one label against the rest) on the word, its affixes and {AROUND} words around it"
        if of_words
        else "logistic regression on words with TF-IDF weights"
    )
    facts = {
        "peer": described,
        "software": {"scikit-learn": version("scikit-learn")},
        "texts": len(texts),
        "train_seconds": round(time.monotonic() - start, 1),
    }
    return Peer(label, described, facts)


def training_pairs(data: PreparedData) -> Iterator[Pair]:
    """Yields the training text of prepared data with its labels, as decoded from its tokens.

    A text with characters that have no piece is left out.
    """
    for i in range(len(data.train)):
        source, target = data.train[i]
        if UNK not in source:
            (text,), (labels,) = data.tokenizer.source.decode([source]), data.tokenizer.decode([target])
            yield text, labels


def _of_texts(texts: list[str], labels: list[str], seed: int) -> Labelling:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    words = TfidfVectorizer(tokenizer=words_of, token_pattern=None, lowercase=False)
    model = make_pipeline(words, LogisticRegression(max_iter=1000, random_state=seed))
    model.fit(texts, labels)

    def label(given: list[str]) -> list[str]:
        return [str(one) for one in model.predict(given)]

    return label


def _of_words(texts: list[str], labels: list[str], seed: int) -> Labelling:
    from sklearn.feature_extraction import FeatureHasher
    from sklearn.linear_model import SGDClassifier
    from sklearn.pipeline import make_pipeline

    hashed = FeatureHasher(2**18, input_type="string")
    model = make_pipeline(hashed, SGDClassifier(loss="log_loss", alpha=1e-6, random_state=seed))
    rows = [row for text in texts for row in features(words_of(text))]
    model.fit(rows, [tag for line in labels for tag in line.split()])

    def label(given: list[str]) -> list[str]:
        lines = []
        for text in given:
            rows = features(words_of(text))
            lines.append(" ".join(map(str, model.predict(rows))) if rows else "")
        return lines

    return label


def features(words: list[str]) -> list[list[str]]:
    """Returns the features of each word of a sentence, as strings."""
    around = range(-AROUND, AROUND + 1)
    padded = [""] * AROUND + words + [""] * AROUND
    return [
        [f"{n}={padded[at + AROUND + n]}" for n in around] + [f"<{word[:2]}", f"{word[-2:]}>", f"{word[-3:]}>"]
        for at, word in enumerate(words)
    ]
