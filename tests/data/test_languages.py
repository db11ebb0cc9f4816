import pytest

from data.languages import Languages, primary
from transformer.config import UserError


@pytest.mark.parametrize(
    ("text", "source", "target"),
    [
        ("en-de", "en", "de"),
        ("EN-DE", "en", "de"),
        ("nds-de", "nds", "de"),
        ("zh-Hans-en", "zh-Hans", "en"),
        ("en-zh-hant", "en", "zh-Hant"),
        ("en-US-de", "en-US", "de"),  # capitals: a region
        ("en-de-AT", "en", "de-AT"),
        ("pt-BR-en-GB", "pt-BR", "en-GB"),
        ("es-419-en", "es-419", "en"),
        ("eng_Latn-zho_Hans", "en-Latn", "zh-Hans"),
        ("de-DE-1996-en", "de-DE-1996", "en"),
    ],
)
def test_codes_are_read_as_people_write_them(text: str, source: str, target: str) -> None:
    found = Languages.parse(text)
    assert found == (source, target)
    assert Languages.parse(str(found)) == found


@pytest.mark.parametrize("text", ["", "en", "german", "en-", "-de", "e-de", "en--de", "en>de", "English-German"])
def test_what_is_no_pair_of_codes_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="two codes, as in en-de"):
        Languages.parse(text)


@pytest.mark.parametrize("text", ["en-us-de", "EN-US-DE"])
def test_a_code_that_could_be_of_either_side_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="write regions in uppercase"):
        Languages.parse(text)


def test_one_language_is_not_two() -> None:
    for text in ("en-US", "de-DE"):
        with pytest.raises(UserError, match="is one language"):
            Languages.parse(text)


def test_the_language_alone() -> None:
    assert primary("zh-Hans-CN") == "zh"
