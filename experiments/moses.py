"""The tokenisation behind the paper's BLEU, so that its number can be set beside ours.

The authors' script (get_ende_bleu.sh of tensor2tensor) rewrites typographic punctuation as ASCII, tokenises as Moses
does, splits compounds at their hyphens ("US-Wahl" counts as three tokens, two of which are easy), and counts n-grams.
The steps are written here from their description. Moses' escapes (&amp; for &) are left out: both sides have them.
"""

import re

LANGUAGES = ("de", "fr")

_PUNCTUATION = str.maketrans(
    dict.fromkeys("„“”«»《》", '"')
    | dict.fromkeys("‘’‚‛´`", "'")
    | dict.fromkeys("–—−", "-")
    | {"…": "...", "，": ",", "。": ". ", "、": ",", "：": ":", "；": ";", "！": "!", "？": "?", "（": "(", "）": ")"}
    | {"％": "%", "\u00a0": " ", "\u202f": " "}
)

# A period after one of these belongs to the word, as it does after a single letter, a Roman numeral of lists, and in
# German after a number up to 99, which is an ordinal. (Words with a period inside, "z.B", keep theirs by rule.)
_TITLES = "Dr Prof Mr Mrs Ms St Gen Col Gov Sen Sens Rep Reps Rev Capt Lt Maj Sgt Co Corp Ltd Ph Op Supt Ens Hon No Nos"
_GERMAN = "Art Nr bzw vs usw etc Mio Mrd MwSt ggf vgl sog sogen ff Std evtl Chr jun sen dgl bzgl pp ca Ca"
_FRENCH = "MM ann apr art av cf chap dir éd env etc ex fig ibid id inf loc op pl pp sec sect suiv suppl tél vol vs"
_ROMAN = "II III IV VI VII VIII IX XI XII XIII XIV XV XVI XVII XVIII XIX XX"
_ABBREVIATIONS: dict[str, frozenset[str]] = {
    "de": frozenset(f"{_TITLES} {_GERMAN} {_ROMAN}".split()) | frozenset(map(str, range(1, 100))),
    "fr": frozenset(_FRENCH.split(" ")),
}

# Characters of the private use area: a dot and an apostrophe that the rules have dealt with.
_DOT, _APOSTROPHE = "\ue000", "\ue001"


def normalise_punctuation(line: str) -> str:
    """Typographic quotes, dashes, dots and spaces, and full-width punctuation, as ASCII."""
    return line.translate(_PUNCTUATION)


def moses_tokenise(line: str, language: str) -> str:
    """Separates punctuation from words by the rules of Moses' tokenizer.perl: tokens with a space between.

    Periods stay in abbreviations and before a lower-case word, commas stay within numbers, runs of dots stay whole;
    an apostrophe stays with the word before it in French (l' homme), and stands alone in German.
    """
    line = re.sub(r"[\x00-\x1f]", "", re.sub(r"\s+", " ", line))
    line = re.sub(r"([^\w\s.'`,-]|_)", r" \1 ", line)
    line = re.sub(r"(?<!\.)\.{2,}", lambda dots: f" {dots[0].replace('.', _DOT)} ", line)
    line = re.sub(r"(?<!\d),|,(?!\d)", " , ", line)
    if language == "fr":
        line = re.sub(r"(?<=[^\W\d_])'(?=[^\W\d_])", f"{_APOSTROPHE} ", line)
    words = line.replace("'", " ' ").split()
    tokens = [_split_period(word, after, language) for word, after in zip(words, [*words[1:], ""], strict=False)]
    return " ".join(tokens).replace(_DOT, ".").replace(_APOSTROPHE, "'")


def _split_period(word: str, following: str, language: str) -> str:
    if not word.endswith(".") or word == ".":
        return word
    stem = word[:-1]
    abbreviation = (
        ("." in stem and any(c.isalpha() for c in stem))
        or (len(stem) == 1 and stem.isalpha())
        or stem in _ABBREVIATIONS[language]
        or following[:1].islower()
    )
    return word if abbreviation else f"{stem} ."


def split_compounds(line: str) -> str:
    """Takes words apart at their hyphens: "US-Wahl" becomes "US ##AT##-##AT## Wahl"."""
    return re.sub(r"(\S)-(\S)", r"\1 ##AT##-##AT## \2", line)


def paper_tokens(line: str, language: str) -> str:
    """All steps: what the paper's BLEU counts n-grams of."""
    return split_compounds(moses_tokenise(normalise_punctuation(line), language))
