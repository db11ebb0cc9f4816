"""Noun phrases: determiner, numeral, adjective and noun, which agree in gender, number and case."""

from enum import IntEnum
from functools import cache
from typing import NamedTuple

from data.grammar.lexicon import POSSESSIVES, PREPOSITIONS, Adjective, Noun


class Case(IntEnum):
    """German cases used by the grammar. They index `Phrase.german`."""

    NOMINATIVE = 0
    ACCUSATIVE = 1
    DATIVE = 2


class Agreement(IntEnum):
    """Person and number that a verb agrees with. They index the verb forms in both languages."""

    FIRST = 0
    THIRD = 1
    PLURAL = 2


class Phrase(NamedTuple):
    """A noun phrase: the English subject and object forms, and the German form of each case."""

    english: str
    english_object: str
    german: tuple[str, str, str]
    agreement: Agreement
    is_pronoun: bool = False
    denies: bool = False


class Determiner(NamedTuple):
    """A determiner, with the keys of ENDINGS for its German stem and for an adjective that follows it.

    The adjective has weak endings if the determiner marks the case, and strong endings if it does not.
    """

    english: str
    english_plural: str
    stem: str
    endings: str
    adjective: str


# One string for each case, with the endings for masculine, feminine, neuter and plural; "-" is no ending.
ENDINGS = {
    "the": ("der die das die", "den die das die", "dem der dem den"),
    "who": ("der die das die", "den die das die", "dem der dem denen"),
    "der": ("er e es e", "en e es e", "em er em en"),
    "ein": ("- e - e", "en e - e", "em er em en"),
    "weak": ("e e e en", "en e e en", "en en en en"),
    "mixed": ("er e es en", "en e es en", "en en en en"),
    "strong": ("er e es e", "en e es e", "em er em en"),
    "none": ("- - - -", "- - - -", "- - - -"),
}

THE = Determiner("the", "the", "", "the", "weak")
A = Determiner("a", "", "ein", "ein", "mixed")  # its plural is BARE
BARE = Determiner("", "", "", "none", "strong")
NOT_A = Determiner("a", "", "kein", "ein", "mixed")  # "does not see a dog": sieht keinen Hund
THIS = Determiner("this", "these", "dies", "der", "weak")
EVERY = Determiner("every", "", "jed", "der", "weak")
ALL = Determiner("", "all", "all", "der", "weak")
MANY = Determiner("", "many", "viel", "strong", "strong")
DEFINITE = [THE, THE, THIS, *(Determiner(word, word, stem, "ein", "mixed") for word, stem in POSSESSIVES.items())]


def ending(table: str, case: Case, gender: str) -> str:
    """Looks up an ending in ENDINGS; `gender` is m, f, n or p (plural)."""
    return ENDINGS[table][case].split()["mfnp".index(gender)].replace("-", "")


def join(*words: str) -> str:
    """Joins the non-empty words with single spaces."""
    return " ".join(filter(None, words))


@cache
def noun_phrase(
    determiner: Determiner,
    noun: Noun,
    plural: bool,
    adjective: Adjective | None = None,
    numeral: tuple[str, str] = ("", ""),
) -> Phrase:
    """Builds a noun phrase in which every word agrees with the noun. `numeral` (English, German) requires a plural."""
    gender = "p" if plural else noun.gender
    article = determiner.english_plural if plural else determiner.english
    words = join(numeral[0], adjective.english if adjective else "", noun.plural if plural else noun.singular)
    if article == "a" and words[0] in "aeiou":
        article = "an"
    forms = []
    for case in Case:
        head = noun.german_plural if plural else noun.german
        if plural and case == Case.DATIVE and head[-1] not in "ns":
            head += "n"
        described = adjective.stem + ending(determiner.adjective, case, gender) if adjective else ""
        forms.append(join(determiner.stem + ending(determiner.endings, case, gender), numeral[1], described, head))
    english, agreement = join(article, words), Agreement.PLURAL if plural else Agreement.THIRD
    return Phrase(english, english, (forms[0], forms[1], forms[2]), agreement, denies=determiner is NOT_A)


def both(first: Phrase, second: Phrase) -> Phrase:
    """Joins two phrases with "and"; the result is plural."""
    forms = [f"{a} und {b}" for a, b in zip(first.german, second.german, strict=True)]
    english = f"{first.english} and {second.english}"
    return Phrase(english, english, (forms[0], forms[1], forms[2]), Agreement.PLURAL)


def place_phrase(preposition: str, place: Phrase) -> tuple[str, str]:
    """Builds a prepositional phrase of place in both languages; German contracts "in dem" and "bei dem"."""
    german = f"{PREPOSITIONS[preposition]} {place.german[Case.DATIVE]}"
    for two, one in (("in dem ", "im "), ("bei dem ", "beim ")):
        if german.startswith(two):
            german = one + german.removeprefix(two)
    return f"{preposition} {place.english}", german


def _pronoun(english: str, english_object: str, german: str, agreement: Agreement) -> Phrase:
    nominative, accusative, dative = german.split()
    return Phrase(english, english_object, (nominative, accusative, dative), agreement, is_pronoun=True)


I = _pronoun("I", "me", "ich mich mir", Agreement.FIRST)
WE = _pronoun("we", "us", "wir uns uns", Agreement.PLURAL)
THEY = _pronoun("they", "them", "sie sie ihnen", Agreement.PLURAL)
HE_OR_SHE = {
    "m": _pronoun("he", "him", "er ihn ihm", Agreement.THIRD),
    "f": _pronoun("she", "her", "sie sie ihr", Agreement.THIRD),
}
IT = {
    "m": _pronoun("it", "it", "er ihn ihm", Agreement.THIRD),
    "f": _pronoun("it", "it", "sie sie ihr", Agreement.THIRD),
    "n": _pronoun("it", "it", "es es ihm", Agreement.THIRD),
}
