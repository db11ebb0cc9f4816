"""The lexicon, English and German: only forms that cannot be derived by rule. To extend the corpus, add rows here."""

from typing import NamedTuple


class Noun(NamedTuple):
    """A noun in both languages. `gender` is the German gender: m, f or n."""

    singular: str
    plural: str
    german: str
    german_plural: str
    gender: str


class Verb(NamedTuple):
    """A verb in both languages.

    `particle` is the English particle after the object (calls her up), `prefix` the separable German prefix (ruft sie
    an). `case` is the case of the German object, "" for a verb without an object.
    """

    base: str
    third: str
    past: str
    particle: str
    infinitive: str
    german_third: str
    participle: str
    prefix: str
    auxiliary: str
    case: str


class Adjective(NamedTuple):
    """An adjective in both languages: `stem` is the German stem that takes endings, `predicative` has none."""

    english: str
    stem: str
    predicative: str


def _rows(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in row.split(",")] for row in table.strip().splitlines()]


def _nouns(table: str) -> list[Noun]:
    return [Noun(*row) for row in _rows(table)]


def _verbs(case: str, table: str) -> list[Verb]:
    """Parses rows: base[+particle], third, past, [prefix|]infinitive, third, participle[, auxiliary if "sein"]."""
    verbs = []
    for base, third, past, infinitive, german_third, participle, *auxiliary in _rows(table):
        base, _, particle = base.partition("+")
        prefix, _, stem = infinitive.rpartition("|")
        helper = auxiliary[0] if auxiliary else "haben"
        verbs.append(Verb(base, third, past, particle, stem, german_third, participle, prefix, helper, case))
    return verbs


def _adjectives(table: str) -> list[Adjective]:
    return [Adjective(row[0], row[1], row[-1]) for row in _rows(table)]


PERSONS = _nouns(
    """man, men, Mann, Männer, m
    woman, women, Frau, Frauen, f
    teacher, teachers, Lehrer, Lehrer, m
    friend, friends, Freund, Freunde, m
    doctor, doctors, Arzt, Ärzte, m
    sister, sisters, Schwester, Schwestern, f
    brother, brothers, Bruder, Brüder, m
    mother, mothers, Mutter, Mütter, f
    father, fathers, Vater, Väter, m
    baker, bakers, Bäcker, Bäcker, m
    queen, queens, Königin, Königinnen, f
    king, kings, König, Könige, m
    aunt, aunts, Tante, Tanten, f
    uncle, uncles, Onkel, Onkel, m
    daughter, daughters, Tochter, Töchter, f
    guest, guests, Gast, Gäste, m""",
)

ANIMALS = _nouns(
    """dog, dogs, Hund, Hunde, m
    cat, cats, Katze, Katzen, f
    horse, horses, Pferd, Pferde, n
    bird, birds, Vogel, Vögel, m
    cow, cows, Kuh, Kühe, f
    mouse, mice, Maus, Mäuse, f
    pig, pigs, Schwein, Schweine, n
    rabbit, rabbits, Kaninchen, Kaninchen, n""",
)

# From "kitchen table" on, compounds: two words in English, one in German.
THINGS = _nouns(
    """book, books, Buch, Bücher, n
    letter, letters, Brief, Briefe, m
    table, tables, Tisch, Tische, m
    chair, chairs, Stuhl, Stühle, m
    lamp, lamps, Lampe, Lampen, f
    picture, pictures, Bild, Bilder, n
    apple, apples, Apfel, Äpfel, m
    cup, cups, Tasse, Tassen, f
    window, windows, Fenster, Fenster, n
    car, cars, Auto, Autos, n
    bicycle, bicycles, Fahrrad, Fahrräder, n
    key, keys, Schlüssel, Schlüssel, m
    newspaper, newspapers, Zeitung, Zeitungen, f
    bottle, bottles, Flasche, Flaschen, f
    hat, hats, Hut, Hüte, m
    coat, coats, Mantel, Mäntel, m
    shirt, shirts, Hemd, Hemden, n
    flower, flowers, Blume, Blumen, f
    gift, gifts, Geschenk, Geschenke, n
    knife, knives, Messer, Messer, n
    kitchen table, kitchen tables, Küchentisch, Küchentische, m
    garden chair, garden chairs, Gartenstuhl, Gartenstühle, m
    school book, school books, Schulbuch, Schulbücher, n
    street lamp, street lamps, Straßenlampe, Straßenlampen, f
    coffee cup, coffee cups, Kaffeetasse, Kaffeetassen, f
    winter coat, winter coats, Wintermantel, Wintermäntel, m
    wine bottle, wine bottles, Weinflasche, Weinflaschen, f
    birthday gift, birthday gifts, Geburtstagsgeschenk, Geburtstagsgeschenke, n
    wall clock, wall clocks, Wanduhr, Wanduhren, f
    city map, city maps, Stadtplan, Stadtpläne, m
    bread knife, bread knives, Brotmesser, Brotmesser, n
    straw hat, straw hats, Strohhut, Strohhüte, m""",
)

PLACES = _nouns(
    """garden, gardens, Garten, Gärten, m
    kitchen, kitchens, Küche, Küchen, f
    house, houses, Haus, Häuser, n
    forest, forests, Wald, Wälder, m
    school, schools, Schule, Schulen, f
    village, villages, Dorf, Dörfer, n
    station, stations, Bahnhof, Bahnhöfe, m
    church, churches, Kirche, Kirchen, f
    hotel, hotels, Hotel, Hotels, n
    library, libraries, Bibliothek, Bibliotheken, f""",
)

# Verbs whose past equals their base (read, put) are omitted: after a plural subject the tense would be ambiguous.
# Transitive verbs are grouped by the objects that make sense: anything, only things, only people and animals.
ABOUT_ANYTHING = _verbs(
    "accusative",
    """see, sees, saw, sehen, sieht, gesehen
    find, finds, found, finden, findet, gefunden
    seek, seeks, sought, suchen, sucht, gesucht
    paint, paints, painted, malen, malt, gemalt
    carry, carries, carried, tragen, trägt, getragen
    forget, forgets, forgot, vergessen, vergisst, vergessen
    love, loves, loved, lieben, liebt, geliebt
    watch, watches, watched, an|sehen, sieht, angesehen
    pick+up, picks, picked, ab|holen, holt, abgeholt
    bring+along, brings, brought, mit|bringen, bringt, mitgebracht""",
)

ABOUT_THINGS = _verbs(
    "accusative",
    """buy, buys, bought, kaufen, kauft, gekauft
    sell, sells, sold, verkaufen, verkauft, verkauft
    need, needs, needed, brauchen, braucht, gebraucht
    throw+away, throws, threw, weg|werfen, wirft, weggeworfen
    give+back, gives, gave, zurück|geben, gibt, zurückgegeben""",
)

ABOUT_PEOPLE = [
    *_verbs(
        "accusative",
        """call+up, calls, called, an|rufen, ruft, angerufen
        invite, invites, invited, ein|laden, lädt, eingeladen
        know, knows, knew, kennen, kennt, gekannt""",
    ),
    *_verbs(
        "dative",
        """help, helps, helped, helfen, hilft, geholfen
        thank, thanks, thanked, danken, dankt, gedankt
        follow, follows, followed, folgen, folgt, gefolgt, sein""",
    ),
]

# Ditransitive verbs: an indirect object (dative) and a direct object (accusative).
GIVING = _verbs(
    "accusative",
    """give, gives, gave, geben, gibt, gegeben
    show, shows, showed, zeigen, zeigt, gezeigt
    send, sends, sent, schicken, schickt, geschickt""",
)

INTRANSITIVE = _verbs(
    "",
    """sleep, sleeps, slept, schlafen, schläft, geschlafen
    work, works, worked, arbeiten, arbeitet, gearbeitet
    laugh, laughs, laughed, lachen, lacht, gelacht
    wait, waits, waited, warten, wartet, gewartet
    sing, sings, sang, singen, singt, gesungen
    dance, dances, danced, tanzen, tanzt, getanzt
    travel, travels, traveled, reisen, reist, gereist, sein
    arrive, arrives, arrived, an|kommen, kommt, angekommen, sein
    get+up, gets, got, auf|stehen, steht, aufgestanden, sein
    fall+asleep, falls, fell, ein|schlafen, schläft, eingeschlafen, sein""",
)

# Verbs with an object clause.
ABOUT_FACTS = _verbs(
    "",
    """say, says, said, sagen, sagt, gesagt
    believe, believes, believed, glauben, glaubt, geglaubt
    think, thinks, thought, denken, denkt, gedacht
    hope, hopes, hoped, hoffen, hofft, gehofft""",
)

_ANY = """old, alt
    small, klein
    big, groß
    beautiful, schön
    strange, seltsam
    dirty, schmutzig"""

ADJECTIVES_LIVING = _adjectives(
    _ANY
    + """
    young, jung
    quiet, ruhig
    famous, berühmt
    tired, müd, müde
    clever, klug
    friendly, freundlich
    rich, reich
    poor, arm"""
)

ADJECTIVES_LIFELESS = _adjectives(
    _ANY
    + """
    new, neu
    red, rot
    blue, blau
    green, grün
    black, schwarz
    white, weiß
    heavy, schwer
    expensive, teur, teuer"""
)

POSSESSIVES = {"my": "mein", "his": "sein", "her": "ihr", "our": "unser"}

PREPOSITIONS = {"in": "in", "behind": "hinter", "near": "bei", "in front of": "vor"}

# English -> German: first person singular, third person singular, plural. "Must not" is not the negation of "must".
MODALS = {
    "can": ("kann", "kann", "können"),
    "must": ("muss", "muss", "müssen"),
    "should": ("soll", "soll", "sollen"),
    "may": ("darf", "darf", "dürfen"),
}

TIMES_NOW = {"today": "heute", "now": "jetzt", "sometimes": "manchmal", "often": "oft"}
TIMES_PAST = {"yesterday": "gestern", "last week": "letzte Woche", "last year": "letztes Jahr"}

CONJUNCTIONS = {"because": "weil", "although": "obwohl", "if": "wenn"}
QUESTION_WORDS = {"where": "wo", "when": "wann", "why": "warum"}

_ENGLISH_UNITS = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
_GERMAN_UNITS = "ein zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn sechzehn"
_ENGLISH_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_GERMAN_TENS = ["zwanzig", "dreißig", "vierzig", "fünfzig", "sechzig", "siebzig", "achtzig", "neunzig"]


def _numerals() -> dict[str, str]:
    """Numerals from two to ninety-nine. In German, units precede tens: forty-two is zweiundvierzig."""
    english = [*_ENGLISH_UNITS.split(), "seventeen", "eighteen", "nineteen"]
    german = [*_GERMAN_UNITS.split(), "siebzehn", "achtzehn", "neunzehn"]
    numerals = dict(zip(english[1:], german[1:], strict=True))
    for english_ten, german_ten in zip(_ENGLISH_TENS, _GERMAN_TENS, strict=True):
        numerals[english_ten] = german_ten
        for english_unit, german_unit in zip(english[:9], german[:9], strict=True):
            numerals[f"{english_ten}-{english_unit}"] = f"{german_unit}und{german_ten}"
    return numerals


NUMERALS = _numerals()
