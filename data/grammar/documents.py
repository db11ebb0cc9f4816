"""Random documents, whose pronouns can only be translated with the sentence before.

    The old woman buys a lamp.      Die alte Frau kauft eine Lampe.
    It is heavy.                    Sie ist schwer.

"It" stands for a thing, and its German form has the gender of the noun in the previous sentence: er, sie or es. Nothing
in its own sentence tells which, and all three are equally frequent: without context, a third of them can be right.
Otherwise every sentence has exactly one translation, as in the other sentences of the grammar.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from random import Random
from typing import NamedTuple

from data.grammar import SPLITS, split_of
from data.grammar.clauses import Clause
from data.grammar.lexicon import ABOUT_THINGS, ADJECTIVES_LIFELESS, PERSONS, THINGS
from data.grammar.phrases import DEFINITE, IT, WE, A, Case, I, Phrase, noun_phrase
from data.grammar.sentences import Sentence, Speaker
from data.text import BOUNDARY
from transformer.config import UserError

GENDERS = tuple(IT)
_THINGS = {gender: [noun for noun in THINGS if noun.gender == gender] for gender in GENDERS}
_DETERMINERS = [A, A, A, *DEFINITE]


class Scene(NamedTuple):
    """A sentence that names a thing, and one that refers to it by a pronoun."""

    naming: Sentence
    referring: Sentence
    pronoun: str
    """The German pronoun: er, ihn, sie, es."""
    wrong: list[str]
    """The German sentence with the pronouns of the other genders."""


class Narrator(Speaker):
    """Generates random documents."""

    def document(self) -> list[Scene]:
        """One to three scenes."""
        return [self.scene() for _ in range(1 + int(self._random() * 3))]

    def scene(self) -> Scene:
        gender = self.pick(GENDERS)
        noun = self.pick(_THINGS[gender])
        adjective = self.pick(ADJECTIVES_LIFELESS) if self.chance(0.35) else None
        thing = noun_phrase(self.pick(_DETERMINERS), noun, False, adjective)
        naming = Clause(self.someone(), self.pick(ABOUT_THINGS), self.tense(), direct=thing, time=self.time())
        referring, case = self.referring()
        english, german = (finished(text) for text in (naming.english(), naming.german("main")))
        forms = {each: finished(with_pronoun(referring, case, IT[each]).german("main")) for each in GENDERS}
        said = finished(with_pronoun(referring, case, IT[gender]).english())
        wrong = [form for each, form in forms.items() if each != gender]
        return Scene((english, german), (said, forms[gender]), IT[gender].german[case], wrong)

    def referring(self) -> tuple[Clause, Case]:
        """A clause whose subject or object, by its case, is the pronoun."""
        tense = self.tense()
        negated = self.negation(tense)
        if self.chance(0.5):
            predicate = self.pick(ADJECTIVES_LIFELESS)
            return Clause(IT["n"], None, tense, negated, predicate=predicate), Case.NOMINATIVE
        verb = self.pick(ABOUT_THINGS)
        return Clause(self.someone(definite=True), verb, tense, negated, direct=IT["n"]), Case.ACCUSATIVE

    def someone(self, definite: bool = False) -> Phrase:
        """A subject whose pronoun is never "it"."""
        return self.pick((I, WE)) if self.chance(0.15) else self.noun(PERSONS, definite).phrase

    def time(self) -> Sentence:
        return ("today", "heute") if self.chance(0.2) else ("", "")


def with_pronoun(clause: Clause, case: Case, pronoun: Phrase) -> Clause:
    """The clause with this pronoun as its subject or its object."""
    return replace(clause, subject=pronoun) if case == Case.NOMINATIVE else replace(clause, direct=pronoun)


def finished(text: str) -> str:
    """A clause as a sentence."""
    return f"{text[0].upper()}{text[1:]}."


def pairs(split: str, count: int, seed: int = 0) -> Iterator[Sentence]:
    """Yields `count` pairs (English, German) of a split, determined by the seed, with BOUNDARY between documents."""
    return islice(_pairs(split, seed), count)


def _pairs(split: str, seed: int) -> Iterator[Sentence]:
    for number, document in enumerate(_documents(split, seed)):
        if number:
            yield BOUNDARY
        for scene in document:
            yield scene.naming
            yield scene.referring


def contrasts(split: str, count: int, seed: int = 0) -> Iterator[tuple[list[Sentence], str, str, list[str], str]]:
    """Yields a contrastive example for each pronoun in the first `count` pairs, as data.corpora.corpus.Contrast."""
    left = count
    for document in _documents(split, seed):
        before: list[Sentence] = []
        for scene in document:
            left -= 2
            if left < 0:
                return
            before = [*before, scene.naming]
            yield before, *scene.referring, scene.wrong, scene.pronoun
            before = [*before, scene.referring]
        left -= 1


def _documents(split: str, seed: int) -> Iterator[list[Scene]]:
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r}: there are {', '.join(SPLITS)}")
    narrator = Narrator(Random(seed))
    while True:
        document = narrator.document()
        if split_of(" ".join(english for scene in document for english, _ in (scene.naming, scene.referring))) == split:
            yield document
