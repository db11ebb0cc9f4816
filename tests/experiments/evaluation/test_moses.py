"""The paper's BLEU protocol, on cases derived by hand from the scripts' rules, and on 500 lines of their output."""

from pathlib import Path

import pytest
from sacrebleu.metrics import BLEU

from experiments.evaluation.metrics import score
from experiments.evaluation.moses import hypothesis_tokens, reference_tokens, split_compounds
from experiments.task import Translated

MADE_BY_THE_PROGRAMS = Path(__file__).parents[3].parent / "shared" / "bleu-split" / "german.tsv"


@pytest.mark.parametrize(
    ("line", "tokens"),
    [
        ("Das ist ein Haus.", "Das ist ein Haus ."),
        ("Er kam, sah (und siegte)!", "Er kam , sah ( und siegte ) !"),
        ("Es kostet 1,5 Mio. Euro, 3.000 Stück.", "Es kostet 1,5 Mio. Euro , 3.000 Stück ."),
        ("Am 3. Oktober kam Dr. Maier z.B. nicht.", "Am 3. Oktober kam Dr. Maier z.B. nicht ."),
        ("Er kam um 3.", "Er kam um 3."),  # Moses treats it as an ordinal, also at the end
        ("Es waren 300. Und mehr.", "Es waren 300 . Und mehr ."),
        ("Ach ... so geht's nicht.", "Ach ... so geht ' s nicht ."),
        ("Es endet. wieder klein", "Es endet. wieder klein"),  # a lower-case word continues the sentence
        ("Die Warner Bros. Studios", "Die Warner Bros. Studios"),
        ("Eine US-Wahl, 50% a/b", "Eine US ##AT##-##AT## Wahl , 50 % a / b"),
        ("250 m², CO₂ hier.", "250 m ² , CO ₂ hier ."),  # neither letters nor digits to Moses
        ("5−3 und 5-3", "5 − 3 und 5 ##AT##-##AT## 3"),  # a minus sign does not make a compound
        ("", ""),
    ],
)
def test_tokens_are_those_of_the_authors_script(line: str, tokens: str) -> None:
    assert reference_tokens(line) == hypothesis_tokens(line) == tokens


def test_some_typographic_punctuation_of_a_hypothesis_becomes_ascii_and_none_of_a_reference() -> None:
    line = "„Ja“ ‚nein‘ «oui» “yes” 《是》 ist’s – doch… 4（5）"
    assert hypothesis_tokens(line) == '„ Ja " ‚ nein ‘ « oui » " yes " " 是 " ist \' s – doch ... 4 ( 5 )'
    assert reference_tokens(line) == "„ Ja “ ‚ nein ‘ « oui » “ yes ” 《 是 》 ist ’ s – doch … 4 （ 5 ）"
    assert hypothesis_tokens("10\u00a0%") == reference_tokens("10\u00a0%") == "10 %"


def test_500_lines_are_tokenised_as_the_original_programs_do() -> None:
    if not MADE_BY_THE_PROGRAMS.exists():
        pytest.skip("the tokens that the original programs made are not here")
    rows = [line.split("\t") for line in MADE_BY_THE_PROGRAMS.read_text(encoding="utf-8").splitlines()[1:]]
    assert len(rows) == 500
    for text, hypothesis, reference in rows:
        assert (hypothesis_tokens(text), reference_tokens(text)) == (hypothesis, reference)


def test_compounds_are_split_at_hyphens_inside_words_only() -> None:
    assert split_compounds("die US-Wahl - heute") == "die US ##AT##-##AT## Wahl - heute"


def test_the_papers_score_counts_n_grams_of_those_tokens() -> None:
    reference = ["Die EU-Kommission hat den Vorschlag heute angenommen."] * 2
    output = ["Die EU-Behörde hat den Vorschlag heute angenommen."] * 2
    scores = {s.name: s for s in score(Translated([], output, reference, "de"))[0]}
    assert list(scores) == ["BLEU", "BLEU-intl", "BLEU-lc", "BLEU-split", "chrF2"]
    # 10 tokens, 9 right; 9 bigrams, 7 right; 8 trigrams, 5 right; 7 four-grams, 3 right; no brevity penalty.
    by_hand = 100 * (9 / 10 * 7 / 9 * 5 / 8 * 3 / 7) ** 0.25
    assert scores["BLEU-split"].value == pytest.approx(by_hand)
    assert "get_ende_bleu.sh" in scores["BLEU-split"].signature
    assert scores["BLEU"].value == pytest.approx(BLEU().corpus_score(output, [reference]).score)


def test_quotes_that_the_reference_writes_otherwise_cost_what_they_cost_in_the_paper() -> None:
    """Quotes are not replaced in the reference, so ASCII quotes in a hypothesis count as errors, as in the paper."""
    reference = ["Er sagte: „Das ist ein schönes altes Haus.“"]
    as_reference, ascii_quotes = (
        score(Translated([], [line], reference, "de"))[0]
        for line in (reference[0], 'Er sagte: "Das ist ein schönes altes Haus."')
    )
    split = [next(s.value for s in scores if s.name == "BLEU-split") for scores in (as_reference, ascii_quotes)]
    # 12 tokens. In a copy of the reference, only the closing quote is replaced and wrong: 11/12, 10/11, 9/10, 8/9.
    assert split[0] == pytest.approx(100 * (11 / 12 * 10 / 11 * 9 / 10 * 8 / 9) ** 0.25)
    # Both quotes wrong, the first within the line: 10 of 12, 8 of 11, 6 of 10, 4 of 9.
    assert split[1] == pytest.approx(100 * (10 / 12 * 8 / 11 * 6 / 10 * 4 / 9) ** 0.25)


@pytest.mark.parametrize("language", ["fr", "en", "nds", None])
def test_the_papers_score_is_of_german_alone(language: str | None) -> None:
    names = [s.name for s in score(Translated([], ["a b c d"], ["a b c d"], language))[0]]
    assert names == ["BLEU", "BLEU-intl", "BLEU-lc", "chrF2"]


def test_without_four_right_tokens_in_a_row_it_is_zero_as_multi_bleu_has_it():
    sources, outputs = ["x"], ["Der alte Hund bellt heute sehr laut."]
    references = ["Der alte Hund schläft heute sehr gern."]
    scores = {one.name: one.value for one in score(Translated(sources, outputs, references, "de"))[0]}
    assert scores["BLEU-split"] == 0.0 < scores["BLEU"]
