"""Reads what a translator is given: sentences, translations, prefixes and constraints become ids, with warnings."""

from collections.abc import Callable, Iterable, Sequence

from data.labels.targets import OF_WORDS, read_as, starts_of
from data.tokenizer import Tokenizer
from data.treebanks.trees import words_in
from experiments.sentences import (
    EOS_PIECE,
    BadLines,
    Target,
    counted_alike,
    phrases_of,
    targets_of,
    texts_of,
    warnings_of,
)
from transformer.config import EOS, UNK, Experiment, UserError

# A limit on the length of an input line, since memory grows with the square of the length.
MAX_TOKENS = 4096


class Reader:
    """The text side of a translator: its vocabulary, and what its model was trained on."""

    experiment: Experiment
    tokenizer: Tokenizer
    log: Callable[[str], None]
    max_tokens: int = MAX_TOKENS
    """Longest accepted sentence in tokens, EOS included."""

    def source_texts(self, sentences: Iterable[str], what: str = "line", first: int = 1) -> list[str]:
        """Returns sources as the model reads them: one line each, with decode.tag. Messages are those of `texts_of`.

        For trees, brackets are written as in the sentences that a parser is trained on: "(" as -LRB-. A text to label
        is read as in training (data.labels.targets.read_as).
        """
        texts = texts_of(sentences, what, first)
        if mark := self.tokenizer.labels_of:
            return [read_as(text, mark) for text in texts]
        return self.tagged([" ".join(words_in(text)) for text in texts] if self.tokenizer.of_trees else texts)

    def tagged(self, texts: list[str]) -> list[str]:
        """Writes decode.tag before each text that is not blank. UserError if it is not a piece for texts."""
        tag = self.experiment.decode.tag
        if tag is None:
            return texts
        # What a text is split into: "</s>" is a piece, but in a text it is four characters.
        if [piece for piece in self.tokenizer.source.surfaces(tag) if piece != "▁"] != [tag]:
            raise UserError(f"{tag!r} is not a piece of the vocabulary for texts: a tag is one of its data.symbols")
        return [f"{tag} {text}" if text else "" for text in texts]

    def encode(self, given: Sequence[Target], tokenizer: Tokenizer | None = None) -> list[list[int]]:
        """Returns token ids: for a text those of its pieces plus EOS, for a list of pieces exactly theirs.

        Args:
            tokenizer: `tokenizer.source` for sources. None: that of targets.

        Raises:
            UserError: an unknown piece.
        """
        tokenizer = tokenizer or self.tokenizer
        return [tokenizer.encode([one])[0] if isinstance(one, str) else tokenizer.ids(one) for one in given]

    def read(
        self,
        given: Sequence[Target],
        what: str,
        first: int = 1,
        bad_lines: BadLines = "refuse",
        tokenizer: Tokenizer | None = None,
    ) -> list[list[int]]:
        """Encodes like `encode`, with [] for an item that is too long and skipped.

        Warns about unknown characters, and about items that are longer than those the model was trained on. Messages
        name an item by `what` and its number, counted from `first`.
        """
        tokenizer = tokenizer or self.tokenizer
        ids = []
        unknown, skipped, long = [], [], []
        for number, one in enumerate(given, start=first):
            try:
                found = self.encode([one], tokenizer)[0]
            except UserError as error:
                raise UserError(f"{what} {number}: {error}") from error
            ids.append(found)
            if len(found) > self.max_tokens:
                message = f"{what} {number} has {len(found)} tokens; the limit is {self.max_tokens}"
                if bad_lines == "refuse":
                    raise UserError(message)
                skipped.append(f"{message}: skipped")
                found.clear()
            elif len(found) > self.experiment.data.max_length:
                trained = self.experiment.data.max_length
                long.append(f"{what} {number} has {len(found)} tokens; the model was trained on at most {trained}")
            if UNK in found and isinstance(one, str):
                characters = ", ".join(map(repr, tokenizer.unknown(one)[:8]))
                unknown.append(
                    f"{what} {number} has characters that are not in the vocabulary and read as <unk>: {characters}"
                )
        for messages in (skipped, unknown, long):
            self.warn(messages)
        return ids

    def places(self, texts: Sequence[str], width: int) -> list[list[int]] | None:
        """Returns where labels of texts, as `source_texts` returns them, are predicted: 1 there, 0 elsewhere.

        None unless the model predicts labels. Those of words have places among `width` pieces.
        """
        if self.tokenizer.labels_of == OF_WORDS:
            return [starts_of(self.tokenizer.source.lengths(text), width) for text in texts]
        return [[1] for _ in texts] if self.tokenizer.labels_of else None

    def check_searched(self, what: str) -> None:
        """Raises UserError if the outputs are predicted without a search."""
        if self.tokenizer.labels_of:
            raise UserError(f"{what}: not for labels, which this run predicts in one pass, without a search")
        self.check_has_probabilities(what)

    def check_has_probabilities(self, what: str) -> None:
        """Raises UserError if no probability of a whole output is defined."""
        if self.experiment.model.architecture == "mask-predict":
            raise UserError(f"{what}: not for mask-predict, which predicts all pieces at once, without a search")

    def read_labels(self, texts: Sequence[str], labels: Sequence[Target], first: int = 1) -> list[list[int]]:
        """Encodes given labels, in the places of their texts. UserError for another number of labels, or unknown ones.

        A blank text has blank labels.
        """
        ids = []
        for number, (text, given) in enumerate(zip(texts, labels, strict=True), start=first):
            if not isinstance(given, str):
                raise UserError(f"target line {number}: give labels as text, not as pieces")
            try:
                ids.append(
                    self.tokenizer.places_of(text, given) if text and given else self.tokenizer.encode([given])[0]
                )
            except UserError as error:
                raise UserError(f"target line {number}: {error}") from error
            if UNK in ids[-1]:
                raise UserError(f"target line {number}: {given[:60]!r} has a label that this run was not trained with")
        return ids

    def read_prefixes(
        self, prefixes: Iterable[Target] | None, sources: list[list[int]], first: int = 1
    ) -> list[list[int]]:
        """Encodes prefixes, without EOS. UserError for a prefix that its sentence has no room for."""
        if prefixes is None:
            return [[] for _ in sources]
        given = targets_of(prefixes, "prefix line", first)
        counted_alike(sources, given, "prefix", "prefixes")
        begun = self.read(given, "prefix line", first)
        extra = self.experiment.decode.extra_length
        for number, (prefix, ids, source) in enumerate(zip(given, begun, sources, strict=True), start=first):
            if isinstance(prefix, str):
                ids.pop()  # EOS
            if EOS in ids:
                raise UserError(f"prefix line {number} ends in {EOS_PIECE}: nothing can follow it")
            if ids and source == [EOS]:
                raise UserError(f"line {number} is blank, and so is its translation: it cannot have a prefix")
            if source and len(ids) > len(source) + extra:
                raise UserError(
                    f"prefix line {number} has {len(ids)} tokens; the translation of its line has at most "
                    f"{len(source) + extra} (--decode.extra-length)"
                )
        return begun

    def read_phrases(
        self, constraints: Iterable[Sequence[Target]] | None, sources: list[list[int]], first: int = 1
    ) -> list[list[list[int]]]:
        """Encodes the phrases of each sentence, without EOS. UserError where they cannot be met."""
        if constraints is None:
            return [[] for _ in sources]
        given = phrases_of(constraints, "constraint line", first)
        counted_alike(sources, given, "line of constraints", "lines of constraints")
        if self.experiment.decode.beam == 1 and any(given):
            raise UserError("constraints need beam search: a beam of at least 2, and no sampling")
        phrases = []
        for number, (line, source) in enumerate(zip(given, sources, strict=True), start=first):
            if line and source == [EOS]:
                raise UserError(f"line {number} is blank, and so is its translation: it cannot have constraints")
            each = [[i for i in ids if i != EOS] for ids in self.encode(line)]
            if any(UNK in ids for ids in each):
                raise UserError(f"constraint line {number} has characters that are not in the vocabulary")
            phrases.append([ids for ids in each if ids])
        return phrases

    def warn(self, messages: list[str]) -> None:
        """Logs warnings of one kind: the first few, and the number of the others."""
        for message in warnings_of(messages):
            self.log(message)
