"""Random sentences: the types of clauses, and how they are combined.

Each random choice below is visible in the English sentence, or determined by a rule (for example, "it" refers to the
thing just mentioned, "he" to the person), so that every sentence has exactly one translation.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random
from typing import NamedTuple, TypeVar

from data.grammar.clauses import Clause
from data.grammar.lexicon import (
    ABOUT_ANYTHING,
    ABOUT_FACTS,
    ABOUT_PEOPLE,
    ABOUT_THINGS,
    ADJECTIVES_LIFELESS,
    ADJECTIVES_LIVING,
    ANIMALS,
    CONJUNCTIONS,
    GIVING,
    INTRANSITIVE,
    MODALS,
    NUMERALS,
    PERSONS,
    PLACES,
    PREPOSITIONS,
    QUESTION_WORDS,
    THINGS,
    TIMES_NOW,
    TIMES_PAST,
    Noun,
    Verb,
)
from data.grammar.phrases import (
    ALL,
    BARE,
    DEFINITE,
    EVERY,
    HE_OR_SHE,
    IT,
    MANY,
    NOT_A,
    THE,
    THEY,
    WE,
    A,
    Agreement,
    Case,
    I,
    Phrase,
    both,
    ending,
    noun_phrase,
    place_phrase,
)

T = TypeVar("T")
Sentence = tuple[str, str]

_NUMERALS = list(NUMERALS.items())
_MODALS, _PREPOSITIONS = list(MODALS), list(PREPOSITIONS)
_TIMES = {"present": list(TIMES_NOW.items()), "past": list(TIMES_PAST.items())}
_CONJUNCTIONS, _QUESTION_WORDS = list(CONJUNCTIONS.items()), list(QUESTION_WORDS.items())
_LIVING = [*PERSONS, *ANIMALS]
_LIFELESS = frozenset(THINGS)
_ANYTHING = [*_LIVING, *THINGS]


class Named(NamedTuple):
    """A noun phrase with its noun, from which pronouns that refer to it are derived."""

    phrase: Phrase
    noun: Noun
    plural: bool

    @property
    def pronoun(self) -> Phrase:
        """he, she, it or they: in English by person or thing, in German by grammatical gender."""
        if self.plural:
            return THEY
        return (HE_OR_SHE if self.noun in PERSONS else IT)[self.noun.gender]

    def relative(self, case: Case) -> str:
        """The German relative pronoun that refers to it."""
        return ending("who", case, "p" if self.plural else self.noun.gender)


class Speaker:
    """Generates random sentences."""

    def __init__(self, random: Random) -> None:
        self._random = random.random  # the only method whose sequence Python guarantees across versions
        self._kinds: list[Callable[[], Sentence]] = [
            *[self.statement] * 15,
            *[self.question] * 6,
            *[self.with_relative_subject] * 7,
            *[self.with_relative_object] * 5,
            *[self.with_reason] * 11,
            *[self.with_report] * 3,
            *[self.contrast] * 3,
        ]

    def sentence(self) -> Sentence:
        """Returns the next sentence pair (English, German)."""
        english, german = self.pick(self._kinds)()
        return english[0].upper() + english[1:], german[0].upper() + german[1:]

    # Choices

    def chance(self, probability: float) -> bool:
        return self._random() < probability

    def pick(self, items: Sequence[T]) -> T:
        return items[int(self._random() * len(items))]

    def noun(self, nouns: Sequence[Noun], definite: bool = False, denied: bool = False) -> Named:
        """A random noun phrase: a noun with a determiner, and optionally a numeral and an adjective.

        Args:
            definite: use a definite determiner (the, this, my, ...). The subject of a negated clause must be definite,
                as negation is ambiguous with an indefinite one.
            denied: the noun is the object of a negated clause: use a definite determiner, or "not a".
        """
        noun, plural = self.pick(nouns), self.chance(0.35)
        numeral = ("", "")
        at = self._random()
        if definite or at < 0.5:
            determiner = self.pick(DEFINITE)
        elif denied:
            determiner = NOT_A
        elif at < 0.75 and plural and self.chance(0.6):
            determiner, numeral = self.pick((THE, BARE, BARE)), self.pick(_NUMERALS)
        elif at < 0.9:
            determiner = BARE if plural else A
        else:
            determiner = self.pick((ALL, MANY)) if plural else EVERY
        adjective = None
        if self.chance(0.35):
            adjective = self.pick(ADJECTIVES_LIFELESS if noun in _LIFELESS else ADJECTIVES_LIVING)
        return Named(noun_phrase(determiner, noun, plural, adjective, numeral), noun, plural)

    def place(self) -> Sentence:
        place = noun_phrase(self.pick((THE, THE, A)), self.pick(PLACES), False)
        return place_phrase(self.pick(_PREPOSITIONS), place)

    def tense(self) -> str:
        at = self._random()
        return "present" if at < 0.42 else "past" if at < 0.8 else self.pick(_MODALS)

    def transitive(self) -> tuple[Verb, Sequence[Noun]]:
        """A random transitive verb, and the nouns that can be its object."""
        verbs, nouns = self.pick(
            ((ABOUT_ANYTHING, _ANYTHING), (ABOUT_THINGS, THINGS), (ABOUT_PEOPLE, _LIVING), (ABOUT_ANYTHING, THINGS))
        )
        return self.pick(verbs), nouns

    # Clauses

    def clause(
        self, subject: Phrase | None = None, adverbials: bool = True, negatable: bool = True
    ) -> tuple[Clause, Named | None]:
        """A random clause with the given subject (by default a random one), and its direct object, if any.

        Args:
            adverbials: whether the clause may have adverbials of time and place.
            negatable: whether the clause may be negated. If so, a given subject must be definite.
        """
        tense = self.tense()
        negated = negatable and self.negation(tense)
        subject = subject or self.subject(negated)
        clause = Clause(subject, None, tense, negated)
        direct = None
        at = self._random()
        if at < 0.18:
            clause = replace(clause, predicate=self.pick(ADJECTIVES_LIVING))
        elif at < 0.4:
            clause = replace(clause, verb=self.pick(INTRANSITIVE))
        elif at < 0.85:
            verb, nouns = self.transitive()
            direct = self.noun(nouns, denied=negated)
            clause = replace(clause, verb=verb, direct=direct.phrase)
        else:
            recipient, direct = self.noun(PERSONS, definite=negated), self.noun(THINGS, denied=negated)
            clause = replace(clause, verb=self.pick(GIVING), recipient=recipient.phrase, direct=direct.phrase)
        if adverbials and self.chance(0.3):
            times = self.pick(_TIMES["past" if tense == "past" else "present"][: 2 if negated else None])
            clause = replace(clause, time=times)
        if adverbials and not negated and clause.verb and self.chance(0.3):
            clause = replace(clause, place=self.place())
        return clause, direct

    def negation(self, tense: str) -> bool:
        """Randomly decides whether to negate a clause. Never with "must", as "must not" is not its negation."""
        return tense != "must" and self.chance(0.2)

    def subject(self, definite: bool = False) -> Phrase:
        at = self._random()
        if at < 0.06:
            return I
        if at < 0.12:
            return WE
        if at < 0.18:
            return self.pick((*HE_OR_SHE.values(), THEY))
        person = self.noun(_LIVING if at < 0.4 else PERSONS, definite).phrase
        if at > 0.95:
            return both(person, self.noun(PERSONS, definite).phrase)
        return person

    # Sentences

    def statement(self) -> Sentence:
        """A statement that begins with the subject, or with time or place, which cause inversion in German."""
        clause, _ = self.clause()
        if clause.time[0] and self.chance(0.5):
            rest = replace(clause, time=("", ""))
            return f"{clause.time[0]} {rest.english()}.", f"{clause.time[1]} {rest.german('inverted')}."
        if clause.place[0] and self.chance(0.4):
            rest = replace(clause, place=("", ""))
            return f"{clause.place[0]} {rest.english()}.", f"{clause.place[1]} {rest.german('inverted')}."
        return f"{clause.english()}.", f"{clause.german('main')}."

    def question(self) -> Sentence:
        clause, direct = self.clause(self.subject(definite=True), negatable=False)
        if self.chance(0.5):
            return f"{clause.english_question()}?", f"{clause.german('inverted')}?"
        if direct and direct.noun in _LIFELESS and self.chance(0.4):
            clause = replace(clause, direct=None)
            return f"what {clause.english_question()}?", f"was {clause.german('inverted')}?"
        if self.chance(0.3):
            clause = replace(clause, subject=Phrase("who", "whom", ("wer", "wen", "wem"), Agreement.THIRD))
            return f"{clause.english()}?", f"{clause.german('main')}?"
        english, german = self.pick(_QUESTION_WORDS)
        clause = replace(clause, time=("", ""), place=("", ""))
        return f"{english} {clause.english_question()}?", f"{german} {clause.german('inverted')}?"

    def with_relative_subject(self) -> Sentence:
        """A relative clause modifying the subject: The man who sees the dog laughs."""
        head = self.noun(self.pick((PERSONS, PERSONS, ANIMALS, THINGS)), definite=self.chance(0.7))
        relative = self.relative(head)
        phrase = head.phrase._replace(
            english=f"{head.phrase.english} {relative[0]}",
            german=(f"{head.phrase.german[0]}, {relative[1]},", "", ""),
        )
        if head.noun in _LIFELESS:
            clause = Clause(phrase, None, self.pick(("present", "past")), predicate=self.pick(ADJECTIVES_LIFELESS))
        else:
            clause, _ = self.clause(phrase, negatable=False)
        return f"{clause.english()}.", f"{clause.german('main')}."

    def with_relative_object(self) -> Sentence:
        """A relative clause modifying the object, at the end in German: We see the dog that the man seeks."""
        verb, nouns = self.transitive()
        verb = verb if not verb.particle else ABOUT_ANYTHING[0]
        direct = self.noun(nouns)
        clause = Clause(self.subject(), verb, self.tense(), direct=direct.phrase)
        relative = self.relative(direct)
        return f"{clause.english()} {relative[0]}.", f"{clause.german('main')}, {relative[1]}."

    def relative(self, head: Named) -> Sentence:
        """A relative clause in which the head is the subject or the object."""
        person = head.noun in PERSONS
        if head.noun not in _LIFELESS and self.chance(0.5):
            who = Phrase(
                "who" if person else "that", "", (head.relative(Case.NOMINATIVE), "", ""), head.phrase.agreement
            )
            clause, _ = self.clause(who, adverbials=False, negatable=False)
            return clause.english(), clause.german("final")
        verb = self.pick(ABOUT_THINGS if head.noun in _LIFELESS else ABOUT_PEOPLE)
        tense = self.tense()
        clause = Clause(self.subject(definite=True), verb, tense, self.negation(tense))
        case = Case.DATIVE if verb.case == "dative" else Case.ACCUSATIVE
        return f"{'whom' if person else 'that'} {clause.english()}", f"{head.relative(case)} {clause.german('final')}"

    def with_reason(self) -> Sentence:
        """A main clause and a subordinate clause (because, although, if), in either order."""
        main, other = self.referring_pair()
        english, german = self.pick(_CONJUNCTIONS)
        if self.chance(0.3):
            return (
                f"{english} {main.english()}, {other.english()}.",
                f"{german} {main.german('final')}, {other.german('inverted')}.",
            )
        return (
            f"{main.english()} {english} {other.english()}.",
            f"{main.german('main')}, {german} {other.german('final')}.",
        )

    def referring_pair(self) -> tuple[Clause, Clause]:
        """Two clauses. The second may refer to the subject or the object of the first by pronouns."""
        at = self._random()
        if at < 0.35:  # ... buys the lamp because it is expensive, ... because he needs it
            person, thing = self.noun(PERSONS), self.noun(THINGS)
            main = Clause(person.phrase, self.pick(ABOUT_THINGS), self.tense(), direct=thing.phrase)
            if self.chance(0.5):
                tense, adjective = self.pick(("present", "past")), self.pick(ADJECTIVES_LIFELESS)
                return main, Clause(thing.pronoun, None, tense, self.negation(tense), predicate=adjective)
            tense, verb = self.tense(), self.pick(ABOUT_THINGS)
            return main, Clause(person.pronoun, verb, tense, self.negation(tense), direct=thing.pronoun)
        if at < 0.7:
            person = self.noun(PERSONS)
            main, _ = self.clause(person.phrase, adverbials=False, negatable=False)
            other, _ = self.clause(person.pronoun)
            return main, other
        return self.clause(adverbials=False)[0], self.clause()[0]

    def with_report(self) -> Sentence:
        """An object clause: The woman says that the man has arrived."""
        verb = self.pick(ABOUT_FACTS)
        main = Clause(self.subject(), verb, self.pick(("present", "past")))
        fact, _ = self.clause()
        return f"{main.english()} that {fact.english()}.", f"{main.german('main')}, dass {fact.german('final')}."

    def contrast(self) -> Sentence:
        first, second = self.clause(adverbials=False)[0], self.clause()[0]
        return (
            f"{first.english()}, but {second.english()}.",
            f"{first.german('main')}, aber {second.german('main')}.",
        )
