"""Clauses, and their word order in English and German.

German has three word orders, which differ in the position of the finite verb: second ("main"), before the subject
("inverted", after a fronted element and in questions) and last ("final", in subordinate clauses). Non-finite elements
(a participle, an infinitive or a separated prefix) are at the end.
"""

from dataclasses import dataclass
from typing import Literal

from data.grammar.lexicon import MODALS, Adjective, Verb
from data.grammar.phrases import Agreement, Case, Phrase, join

Order = Literal["main", "inverted", "final"]

BE = {"present": ("am", "is", "are"), "past": ("was", "was", "were")}
SEIN = {"present": ("bin", "ist", "sind"), "past": ("war", "war", "waren")}
HABEN = ("habe", "hat", "haben")
DO = {"present": ("do", "does", "do"), "past": ("did", "did", "did")}


@dataclass(frozen=True)
class Clause:
    """A clause: a subject with a verb and its arguments, or with a predicate adjective.

    `tense` is "present", "past" (English past simple, German perfect) or a modal verb. A clause without a verb has a
    predicate. The object is None if it is outside the clause: the head of a relative clause, or a question word.
    """

    subject: Phrase
    verb: Verb | None
    tense: str
    negated: bool = False
    recipient: Phrase | None = None
    direct: Phrase | None = None
    predicate: Adjective | None = None
    time: tuple[str, str] = ("", "")
    place: tuple[str, str] = ("", "")

    def english(self) -> str:
        """Returns the English statement. Fronted elements are added by the caller."""
        return join(self.subject.english, self._english_verb(), self._english_rest())

    def english_question(self) -> str:
        """Returns the English question, auxiliary first. (A question about the subject has the form of a statement.)"""
        auxiliary, base = self._english_auxiliary()
        return join(auxiliary, self.subject.english, base, self._english_rest())

    def german(self, order: Order) -> str:
        """Returns the German clause in one of the three word orders."""
        subject = self.subject.german[Case.NOMINATIVE]
        finite, end = self._german_verb()
        middle = self._german_middle()
        if order == "main":
            return join(subject, finite, middle, end)
        if order == "inverted":
            return join(finite, subject, middle, end)
        if self.verb and end == self.verb.prefix:  # a separable prefix rejoins its verb: anruft
            return join(subject, middle, end + finite)
        return join(subject, middle, end, finite)

    def _english_auxiliary(self) -> tuple[str, str]:
        """Returns the auxiliary used in questions and negation, and the verb form that follows it."""
        if self.tense in MODALS:
            return self.tense, self.verb.base if self.verb else "be"
        if not self.verb:
            return BE[self.tense][self.subject.agreement], ""
        return DO[self.tense][self.subject.agreement], self.verb.base

    def _english_verb(self) -> str:
        auxiliary, base = self._english_auxiliary()
        if self.negated:
            return join("cannot" if auxiliary == "can" else f"{auxiliary} not", base)
        if not self.verb or self.tense in MODALS:
            return join(auxiliary, base)
        if self.tense == "past":
            return self.verb.past
        return self.verb.third if self.subject.agreement == Agreement.THIRD else self.verb.base

    def _english_rest(self) -> str:
        return join(
            self.recipient.english_object if self.recipient else "",
            self.direct.english_object if self.direct else "",
            self.verb.particle if self.verb else "",
            self.predicate.english if self.predicate else "",
            self.place[0],
            self.time[0],
        )

    def _german_verb(self) -> tuple[str, str]:
        """Returns the finite verb, and the non-finite element at the end of the clause."""
        agreement = self.subject.agreement
        verb = self.verb
        if self.tense in MODALS:
            return MODALS[self.tense][agreement], (verb.prefix + verb.infinitive) if verb else "sein"
        if not verb:
            return SEIN[self.tense][agreement], ""
        if self.tense == "past":
            return (HABEN if verb.auxiliary == "haben" else SEIN["present"])[agreement], verb.participle
        return (verb.infinitive[:-1], verb.german_third, verb.infinitive)[agreement], verb.prefix

    def _german_middle(self) -> str:
        """Returns the middle field: pronouns, time, recipient, object, negation, place, predicate."""
        case = Case.DATIVE if self.verb and self.verb.case == "dative" else Case.ACCUSATIVE
        direct = self.direct.german[case] if self.direct else ""
        early = self.direct is not None and self.direct.is_pronoun
        denied = self.negated and not (self.direct and self.direct.denies)
        return join(
            direct if early else "",
            self.time[1],
            self.recipient.german[Case.DATIVE] if self.recipient else "",
            "" if early else direct,
            "nicht" if denied else "",
            self.place[1],
            self.predicate.predicative if self.predicate else "",
        )
