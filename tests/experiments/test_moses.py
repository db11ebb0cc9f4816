"""The paper's protocol on cases worked out by hand."""

import pytest
from sacrebleu.metrics import BLEU

from experiments.moses import moses_tokenise, normalise_punctuation, paper_tokens, split_compounds
from experiments.scoring import Translated, score


@pytest.mark.parametrize(
    ("line", "language", "tokens"),
    [
        ("Das ist ein Haus.", "de", "Das ist ein Haus ."),
        ("Er kam, sah (und siegte)!", "de", "Er kam , sah ( und siegte ) !"),
        ("Es kostet 1,5 Mio. Euro, 3.000 Stück.", "de", "Es kostet 1,5 Mio. Euro , 3.000 Stück ."),
        ("Am 3. Oktober kam Dr. Maier z.B. nicht.", "de", "Am 3. Oktober kam Dr. Maier z.B. nicht ."),
        ("Er kam um 3.", "de", "Er kam um 3."),  # Moses takes it for an ordinal, at the end too
        ("Es waren 300. Und mehr.", "de", "Es waren 300 . Und mehr ."),
        ("Ach ... so geht's nicht.", "de", "Ach ... so geht ' s nicht ."),
        ("Es endet. wieder klein", "de", "Es endet. wieder klein"),  # a lower-case word goes on with the sentence
        ("US-Wahl 50% a/b", "de", "US-Wahl 50 % a / b"),
        ("L'homme n'est pas là, aujourd'hui.", "fr", "L' homme n' est pas là , aujourd' hui ."),
        ("Il dit : 'non'.", "fr", "Il dit : ' non ' ."),
        ("M. Dupont, MM. Durand etc. viennent.", "fr", "M. Dupont , MM. Durand etc. viennent ."),
        ("", "de", ""),
    ],
)
def test_moses_tokens(line: str, language: str, tokens: str) -> None:
    assert moses_tokenise(line, language) == tokens


def test_typographic_punctuation_becomes_ascii() -> None:
    assert normalise_punctuation("„Ja“ – ‚nein‘… «oui»") == '"Ja" - \'nein\'... "oui"'


def test_compounds_are_split_at_hyphens_inside_words_only() -> None:
    assert split_compounds("die US-Wahl - heute") == "die US ##AT##-##AT## Wahl - heute"
    assert paper_tokens("„US-Wahl“.", "de") == '" US ##AT##-##AT## Wahl " .'


def test_the_papers_score_counts_n_grams_of_those_tokens() -> None:
    reference = ["Die EU-Kommission hat den Vorschlag heute angenommen."] * 2
    output = ["Die EU-Behörde hat den Vorschlag heute angenommen."] * 2
    scores = {s.name: s for s in score(Translated([], output, reference, "de"))[0]}
    assert list(scores) == ["BLEU", "BLEU-intl", "BLEU-lc", "BLEU-split", "chrF2"]
    # 10 tokens, 9 right; 9 bigrams, 7 right; 8 trigrams, 5 right; 7 four-grams, 3 right; no brevity penalty.
    by_hand = 100 * (9 / 10 * 7 / 9 * 5 / 8 * 3 / 7) ** 0.25
    assert scores["BLEU-split"].value == pytest.approx(by_hand)
    assert scores["BLEU"].value == pytest.approx(BLEU().corpus_score(output, [reference]).score)
    assert [s.name for s in score(Translated([], output, reference))[0]] == ["BLEU", "BLEU-intl", "BLEU-lc", "chrF2"]
