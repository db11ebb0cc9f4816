"""The embedded grammar: German sentences checked by hand, and properties that hold for the whole corpus."""

import re

import pytest

from data import grammar
from data.grammar import lexicon
from data.grammar.clauses import Clause
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
    THIS,
    A,
    Determiner,
    I,
    Phrase,
    both,
    noun_phrase,
    place_phrase,
)
from transformer.config import UserError

NOUNS = {n.singular: n for n in (*lexicon.PERSONS, *lexicon.ANIMALS, *lexicon.THINGS, *lexicon.PLACES)}
VERBS = {
    f"{v.base} {v.particle}".strip(): v
    for v in (
        *lexicon.ABOUT_FACTS,
        *lexicon.GIVING,
        *lexicon.ABOUT_ANYTHING,
        *lexicon.ABOUT_THINGS,
        *lexicon.ABOUT_PEOPLE,
        *lexicon.INTRANSITIVE,
    )
}
ADJECTIVES = {a.english: a for a in (*lexicon.ADJECTIVES_LIVING, *lexicon.ADJECTIVES_LIFELESS)}
MY, HER = (next(d for d in DEFINITE if d.english == word) for word in ("my", "her"))


def np(determiner: Determiner, words: str, plural: bool = False, number: str = "") -> Phrase:
    """np(THE, "old man")"""
    *adjective, noun = words.split(" ", 1) if words.split(" ", 1)[0] in ADJECTIVES else [words]
    numeral = (number, lexicon.NUMERALS[number]) if number else ("", "")
    return noun_phrase(determiner, NOUNS[noun], plural, ADJECTIVES[adjective[0]] if adjective else None, numeral)


@pytest.mark.parametrize(
    ("phrase", "english", "nominative", "accusative", "dative"),
    [
        (np(THE, "old man"), "the old man", "der alte Mann", "den alten Mann", "dem alten Mann"),
        (np(A, "old man"), "an old man", "ein alter Mann", "einen alten Mann", "einem alten Mann"),
        (np(BARE, "old man", True), "old men", "alte Männer", "alte Männer", "alten Männern"),
        (np(THE, "young woman"), "the young woman", "die junge Frau", "die junge Frau", "der jungen Frau"),
        (np(A, "small book"), "a small book", "ein kleines Buch", "ein kleines Buch", "einem kleinen Buch"),
        (np(MY, "new car"), "my new car", "mein neues Auto", "mein neues Auto", "meinem neuen Auto"),
        (np(HER, "sister", True), "her sisters", "ihre Schwestern", "ihre Schwestern", "ihren Schwestern"),
        (np(NOT_A, "red lamp"), "a red lamp", "keine rote Lampe", "keine rote Lampe", "keiner roten Lampe"),
        (np(NOT_A, "red lamp", True), "red lamps", "keine roten Lampen", "keine roten Lampen", "keinen roten Lampen"),
        (np(THIS, "king", True), "these kings", "diese Könige", "diese Könige", "diesen Königen"),
        (np(EVERY, "clever guest"), "every clever guest", "jeder kluge Gast", "jeden klugen Gast", "jedem klugen Gast"),
        (np(ALL, "car", True), "all cars", "alle Autos", "alle Autos", "allen Autos"),
        (
            np(MANY, "old house", True),
            "many old houses",
            "viele alte Häuser",
            "viele alte Häuser",
            "vielen alten Häusern",
        ),
        (np(A, "expensive hat"), "an expensive hat", "ein teurer Hut", "einen teuren Hut", "einem teuren Hut"),
        (
            np(BARE, "heavy street lamp", True, "forty-two"),
            "forty-two heavy street lamps",
            "zweiundvierzig schwere Straßenlampen",
            "zweiundvierzig schwere Straßenlampen",
            "zweiundvierzig schweren Straßenlampen",
        ),
        (
            np(THE, "dirty cup", True, "twenty-one"),
            "the twenty-one dirty cups",
            "die einundzwanzig schmutzigen Tassen",
            "die einundzwanzig schmutzigen Tassen",
            "den einundzwanzig schmutzigen Tassen",
        ),
    ],
)
def test_declension(phrase: Phrase, english: str, nominative: str, accusative: str, dative: str) -> None:
    assert (phrase.english, *phrase.german) == (english, nominative, accusative, dative)


def test_places_contract_with_the_article() -> None:
    assert place_phrase("in", np(THE, "garden")) == ("in the garden", "im Garten")
    assert place_phrase("near", np(THE, "station")) == ("near the station", "beim Bahnhof")
    assert place_phrase("in", np(THE, "church")) == ("in the church", "in der Kirche")
    assert place_phrase("behind", np(A, "house")) == ("behind a house", "hinter einem Haus")


TODAY, YESTERDAY = ("today", "heute"), ("yesterday", "gestern")
GARDEN = ("in the garden", "im Garten")


@pytest.mark.parametrize(
    ("clause", "english", "question", "main", "inverted", "final"),
    [
        (
            Clause(np(THE, "man"), VERBS["call up"], "present", direct=np(A, "woman"), time=TODAY),
            "the man calls a woman up today",
            "does the man call a woman up today",
            "der Mann ruft heute eine Frau an",
            "ruft der Mann heute eine Frau an",
            "der Mann heute eine Frau anruft",
        ),
        (
            Clause(np(THE, "man", True), VERBS["call up"], "can", negated=True, direct=np(NOT_A, "woman")),
            "the men cannot call a woman up",
            "can the men call a woman up",
            "die Männer können keine Frau anrufen",
            "können die Männer keine Frau anrufen",
            "die Männer keine Frau anrufen können",
        ),
        (
            Clause(HE_OR_SHE["f"], VERBS["fall asleep"], "past", time=YESTERDAY, place=GARDEN),
            "she fell asleep in the garden yesterday",
            "did she fall asleep in the garden yesterday",
            "sie ist gestern im Garten eingeschlafen",
            "ist sie gestern im Garten eingeschlafen",
            "sie gestern im Garten eingeschlafen ist",
        ),
        (
            Clause(I, VERBS["help"], "past", negated=True, direct=np(MY, "brother", True)),
            "I did not help my brothers",
            "did I help my brothers",
            "ich habe meinen Brüdern nicht geholfen",
            "habe ich meinen Brüdern nicht geholfen",
            "ich meinen Brüdern nicht geholfen habe",
        ),
        (
            Clause(np(THE, "aunt"), VERBS["give"], "past", recipient=np(A, "guest"), direct=np(BARE, "apple", True)),
            "the aunt gave a guest apples",
            "did the aunt give a guest apples",
            "die Tante hat einem Gast Äpfel gegeben",
            "hat die Tante einem Gast Äpfel gegeben",
            "die Tante einem Gast Äpfel gegeben hat",
        ),
        (
            Clause(np(THE, "aunt"), VERBS["need"], "present", negated=True, direct=IT["m"], time=TODAY),
            "the aunt does not need it today",
            "does the aunt need it today",
            "die Tante braucht ihn heute nicht",
            "braucht die Tante ihn heute nicht",
            "die Tante ihn heute nicht braucht",
        ),
        (
            Clause(np(MY, "hat", True), None, "past", negated=True, predicate=ADJECTIVES["expensive"]),
            "my hats were not expensive",
            "were my hats expensive",
            "meine Hüte waren nicht teuer",
            "waren meine Hüte nicht teuer",
            "meine Hüte nicht teuer waren",
        ),
        (
            Clause(both(np(THE, "king"), np(THE, "queen")), None, "must", predicate=ADJECTIVES["tired"]),
            "the king and the queen must be tired",
            "must the king and the queen be tired",
            "der König und die Königin müssen müde sein",
            "müssen der König und die Königin müde sein",
            "der König und die Königin müde sein müssen",
        ),
        (
            Clause(np(A, "old uncle"), VERBS["follow"], "past", direct=np(THE, "dog")),
            "an old uncle followed the dog",
            "did an old uncle follow the dog",
            "ein alter Onkel ist dem Hund gefolgt",
            "ist ein alter Onkel dem Hund gefolgt",
            "ein alter Onkel dem Hund gefolgt ist",
        ),
    ],
)
def test_word_order(clause: Clause, english: str, question: str, main: str, inverted: str, final: str) -> None:
    assert clause.english() == english
    assert (clause.german("main"), clause.german("inverted"), clause.german("final")) == (main, inverted, final)
    if not clause.negated:
        assert clause.english_question() == question


# Generated by the grammar and checked by hand: a line of English, then a line of German.
CHECKED = """
Guests called our young bakers up.
Gäste haben unsere jungen Bäcker angerufen.
Who gets up today?
Wer steht heute auf?
A woman needs street lamps although she gives them back.
Eine Frau braucht Straßenlampen, obwohl sie sie zurückgibt.
What did they bring along?
Was haben sie mitgebracht?
In the station my old baker and these uncles arrive.
Im Bahnhof kommen mein alter Bäcker und diese Onkel an.
Yesterday the daughter did not send this big baker these bottles.
Gestern hat die Tochter diesem großen Bäcker diese Flaschen nicht geschickt.
If old queens bought a straw hat, it is beautiful.
Wenn alte Königinnen einen Strohhut gekauft haben, ist er schön.
Although an aunt needed a birthday gift, she cannot buy it.
Obwohl eine Tante ein Geburtstagsgeschenk gebraucht hat, kann sie es nicht kaufen.
Twenty-four teachers should sell every green flower because it was white.
Vierundzwanzig Lehrer sollen jede grüne Blume verkaufen, weil sie weiß war.
The forty-five daughters buy his green bicycle if they can need it.
Die fünfundvierzig Töchter kaufen sein grünes Fahrrad, wenn sie es brauchen können.
Our quiet uncle should invite a mother whom these doctors can thank.
Unser ruhiger Onkel soll eine Mutter einladen, der diese Ärzte danken können.
His uncles whom his kings may not know were famous last week.
Seine Onkel, die seine Könige nicht kennen dürfen, waren letzte Woche berühmt.
The kitchen table that these beautiful uncles threw away was beautiful.
Der Küchentisch, den diese schönen Onkel weggeworfen haben, war schön.
My poor brother who danced may pick this red kitchen table up.
Mein armer Bruder, der getanzt hat, darf diesen roten Küchentisch abholen.
He knows a bird that gives a teacher a gift.
Er kennt einen Vogel, der einem Lehrer ein Geschenk gibt.
Women gave seventy-one rich daughters the birthday gifts near the house.
Frauen haben einundsiebzig reichen Töchtern die Geburtstagsgeschenke beim Haus gegeben.
If her strange brother followed my cow, he thanked an old pig.
Wenn ihr seltsamer Bruder meiner Kuh gefolgt ist, hat er einem alten Schwein gedankt.
We may not give this big teacher a shirt now.
Wir dürfen jetzt diesem großen Lehrer kein Hemd geben.
Our dirty guest does not forget our poor brother now.
Unser schmutziger Gast vergisst jetzt unseren armen Bruder nicht.
She hoped that the old aunts do not know this father.
Sie hat gehofft, dass die alten Tanten diesen Vater nicht kennen.
Did the man follow the famous daughters behind a kitchen?
Ist der Mann den berühmten Töchtern hinter einer Küche gefolgt?
Should we be tired?
Sollen wir müde sein?
We are young, but I picked a coffee cup up yesterday.
Wir sind jung, aber ich habe gestern eine Kaffeetasse abgeholt.
The guest gave her car back, but her sister was not young.
Der Gast hat ihr Auto zurückgegeben, aber ihre Schwester war nicht jung.
""".strip().splitlines()


@pytest.fixture(scope="module")
def sample() -> list[tuple[str, str]]:
    return list(grammar.pairs("test", 3000))


@pytest.mark.parametrize(("english", "german"), list(zip(CHECKED[::2], CHECKED[1::2], strict=True)))
def test_sentences_that_a_person_checked(english: str, german: str, sample: list[tuple[str, str]]) -> None:
    assert dict(sample)[english] == german


@pytest.mark.slow
def test_the_same_seed_gives_the_same_corpus_and_another_one_another(sample: list[tuple[str, str]]) -> None:
    assert list(grammar.pairs("test", 3000)) == sample
    assert list(grammar.pairs("test", 100)) == sample[:100], "asking for fewer changes nothing else"
    assert len(set(sample) & set(grammar.pairs("test", 3000, seed=1))) < 300


@pytest.mark.slow
def test_splits_share_no_sentence_whatever_the_seeds() -> None:
    splits = {
        split: {english for seed in (0, 1) for english, _ in grammar.pairs(split, 2000, seed)}
        for split in grammar.SPLITS
    }
    assert not splits["train"] & splits["dev"]
    assert not splits["train"] & splits["test"]
    assert not splits["dev"] & splits["test"]


@pytest.mark.slow
def test_sentences_are_distinct_and_each_has_one_translation() -> None:
    translations: dict[str, str] = {}
    for seed in (0, 1, 2):
        pairs = list(grammar.pairs("train", 30_000, seed))
        assert len({english for english, _ in pairs}) == 30_000
        for english, german in pairs:
            assert translations.setdefault(english, german) == german


def test_there_are_more_than_a_million_sentences() -> None:
    assert grammar.size() > 1_000_000


def test_the_size_counts_sentences_that_are_all_different() -> None:
    """Enumerates the form that `size` counts, for two verbs and a few nouns: every choice gives another sentence."""
    subjects = [np(d, f"{a.english} {n.singular}", p) for d in set(DEFINITE) for a in lexicon.ADJECTIVES_LIVING[:4]
                for n in lexicon.PERSONS[:4] for p in (False, True)]  # fmt: skip
    objects = [np(d, f"{a.english} {n.singular}", p) for d in set(DEFINITE) for a in lexicon.ADJECTIVES_LIFELESS[-4:]
               for n in lexicon.THINGS[-4:] for p in (False, True)]  # fmt: skip
    sentences = {
        Clause(subject, verb, "present", direct=direct).english()
        for subject in subjects
        for verb in lexicon.ABOUT_THINGS[:2]
        for direct in objects
    }
    assert len(sentences) == len(subjects) * 2 * len(objects)


def words_of(text: str) -> list[str]:
    return re.findall(r"\w[\w-]*", text.lower())


def test_both_sides_name_the_same_things(sample: list[tuple[str, str]]) -> None:
    """Every noun and numeral of one side occurs in the other, equally often."""
    english_of: dict[str, str] = {}
    for noun in NOUNS.values():
        for form in (noun.german, noun.german_plural, noun.german_plural + "n"):
            english_of[form.lower()] = noun.singular
    singular = {noun.plural: noun.singular for noun in NOUNS.values()}
    for english, german in sample:
        text = english.lower()
        for compound in sorted((n for n in (*NOUNS, *singular) if " " in n), key=len, reverse=True):
            text = text.replace(compound, compound.replace(" ", "_"))
        found = [singular.get(w, w) for w in (word.replace("_", " ") for word in words_of(text))]
        expected = sorted(word for word in found if word in NOUNS)
        assert sorted(english_of[w] for w in words_of(german) if w in english_of) == expected, (english, german)
        numerals = sorted(lexicon.NUMERALS[w] for w in words_of(english) if w in lexicon.NUMERALS)
        assert sorted(w for w in words_of(german) if w in lexicon.NUMERALS.values()) == numerals, (english, german)


def test_what_one_side_denies_the_other_does(sample: list[tuple[str, str]]) -> None:
    for english, german in sample:
        denials = len(re.findall(r"\b(?:not|cannot)\b", english))
        assert len(re.findall(r"\b(?:nicht|kein(?:e|en|em|er)?)\b", german)) == denials, (english, german)


def test_sentences_start_with_a_capital_and_end_with_one_mark(sample: list[tuple[str, str]]) -> None:
    for pair in sample:
        for text in pair:
            assert re.fullmatch(r"[A-ZÄÖÜ][^.?]*[^ ,.?][.?]", text), text
            assert "  " not in text and " ," not in text and ",," not in text


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match="unknown split 'valid'"):
        grammar.pairs("valid", 1)
    with pytest.raises(UserError, match="up to"):
        grammar.pairs("train", 10**9)
    with pytest.raises(UserError, match="up to"):
        grammar.pairs("test", -1)
