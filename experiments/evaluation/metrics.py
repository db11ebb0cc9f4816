"""Scores of a translation: sacreBLEU and chrF on detokenised text, and BLEU by the paper's protocol.

    BLEU        sacreBLEU, cased, with its tokenizer for the target language (13a for most): the score to publish
    BLEU-intl   sacreBLEU with the "intl" tokenizer
    BLEU-lc     like BLEU, lowercased
    BLEU-split  the paper's protocol, only into German: Moses tokens, compounds split at hyphens, as multi-bleu does
    chrF2       F-score of character n-grams

A BLEU score means nothing without its protocol: those of the same output differ by more than a point.
"""

import math
import unicodedata
from collections.abc import Callable
from functools import cache, partial
from typing import Any

from sacrebleu.metrics import BLEU, CHRF

from data.corpora import languages_of
from data.languages import primary
from experiments.evaluation.moses import hypothesis_tokens, reference_tokens
from experiments.task import Score, Translated
from transformer.checkpoint import brief
from transformer.config import DataConfig, UserError
from transformer.registry import Registry

Measured = tuple[float, str]
"""A score, in percent if that is the metric's convention, and its signature."""

Metric = Callable[[Translated], Measured | None]
"""Computes the score of a translation; returns None if the metric does not apply to the language."""


def target_language(config: DataConfig) -> str | None:
    """Returns the language code of a corpus's target side; None if it is unknown."""
    languages = languages_of(config)
    return languages.target if languages else None


# Languages written without spaces between words for which sacreBLEU has no tokenizer of its own.
_WITHOUT_SPACES = frozenset({"th", "lo", "km", "my", "bo", "dz"})
# Chinese languages that share the characters of "zh", and therefore its tokenizer.
_CHINESE = frozenset({"yue", "wuu", "hak", "nan", "lzh"})


def bleu(language: str | None, **settings: Any) -> BLEU:
    """Returns sacreBLEU with its tokenizer for a target language (zh, ja-mecab, ko-mecab; 13a for most).

    Languages without spaces between words for which it has none use "flores200".

    Raises:
        UserError: the tokenizer needs a package that is not installed, or a file that cannot be downloaded.
    """
    code = primary(language or "")
    code = "zh" if code in _CHINESE else code
    try:
        return BLEU(trg_lang=code, tokenize="flores200" if code in _WITHOUT_SPACES else None, **settings)
    except Exception as error:
        extra = f': pip install "sacrebleu[{code}]"' if code in ("ja", "ko") else f" ({brief(error)})"
        raise UserError(f"BLEU into {language} needs a tokenizer that is not available{extra}") from error


def check_tokenizer(language: str | None) -> str | None:
    """Returns a sentence on why BLEU into a language cannot be computed here; None if it can.

    This is for commands that precede a run, perhaps on another machine. Where BLEU is needed, `bleu` raises.
    """
    try:
        bleu(language)
    except UserError as error:
        return f"{error}; `train` and `evaluate` will refuse without it"
    return None


def check_language(references: list[str], language: str | None) -> str | None:
    """Returns a sentence if BLEU's tokenizer for the language does not suit the references; None if it does.

    If text without spaces is split at spaces, hardly any word matches: BLEU is near 0 for any translation.
    """
    tokens = bleu(language).tokenizer.signature()
    letters = [c for line in references[:1000] for c in line if c.isalpha()]
    if tokens != "13a" or not letters:
        return None
    if sum(map(_is_of_no_spaces, letters)) * 2 > len(letters):
        into = f"into {language}" if language else "into a language that is not given"
        return (
            f"{into}, BLEU splits words at spaces, but the references have none, so the score will be meaningless: "
            f"give the languages of the text with --data.languages, as in en-zh"
        )
    return None


@cache
def _is_of_no_spaces(character: str) -> bool:
    scripts = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")
    return unicodedata.name(character, "").startswith(scripts)


def by_bleu(text: Translated, **settings: Any) -> Measured:
    """Computes sacreBLEU with its tokenizer for the target language."""
    metric = bleu(text.language, **settings)
    return metric.corpus_score(text.outputs, [text.references]).score, str(metric.get_signature())


def by_bleu_intl(text: Translated) -> Measured | None:
    """Computes sacreBLEU with the "intl" tokenizer; None for languages without spaces between words."""
    if bleu(text.language).tokenizer.signature() != "13a":
        return None
    metric = BLEU(tokenize="intl")
    return metric.corpus_score(text.outputs, [text.references]).score, str(metric.get_signature())


def by_chrf(text: Translated) -> Measured:
    """Computes sacreBLEU's chrF2."""
    metric = CHRF()
    return metric.corpus_score(text.outputs, [text.references]).score, str(metric.get_signature())


def by_paper_protocol(text: Translated) -> Measured | None:
    """Computes BLEU by the protocol of the paper's German scores (experiments/evaluation/moses.py).

    Like multi-bleu it does not smooth: the score is 0.00 if no 4-gram matches.
    """
    if primary(text.language or "") != "de":
        return None
    metric = BLEU(tokenize="none", smooth_method="none", force=True)
    outputs = list(map(hypothesis_tokens, text.outputs))
    value = metric.corpus_score(outputs, [list(map(reference_tokens, text.references))]).score
    return value, f"{metric.get_signature()}|input:get_ende_bleu.sh"


METRICS: Registry[Metric] = Registry(
    "metric",
    {
        "BLEU": by_bleu,
        "BLEU-intl": by_bleu_intl,
        "BLEU-lc": partial(by_bleu, lowercase=True),
        "BLEU-split": by_paper_protocol,
        "chrF2": by_chrf,
    },
)


def custom_metrics() -> dict[str, dict[str, str]]:
    """Returns the metrics that are not built in, each under the key "metric.NAME"."""
    return {
        f"metric.{name}": {"name": name} | METRICS.origins[name] for name in METRICS if name not in METRICS.built_in
    }


def score(text: Translated) -> tuple[list[Score], list[str]]:
    """Returns all scores of a translation, the one to publish first, and the errors of custom metrics that failed."""
    scores, failed = [], []
    for name, metric in METRICS.items():
        try:
            if (found := metric(text)) is not None:
                scores.append(Score(name, *validated(found)))
        except Exception as error:
            if name in METRICS.built_in:
                raise
            failed.append(f"the metric {name!r} failed: {type(error).__name__}: {brief(error)}")
    return scores, failed


def scores_told(scores: list[Score]) -> list[str]:
    """What is printed of all scores: a line each, and one more where two of them seem not to be of one translation."""
    value = {score.name: score.value for score in scores}
    lines = list(map(str, scores))
    if value.get("BLEU-split") == 0 and value.get("BLEU", 0) > 0:
        lines.append("BLEU-split is 0 as no four tokens in a row are right: multi-bleu does not smooth; BLEU does")
    return lines


def validated(found: Measured) -> Measured:
    """Returns the result of a metric as float and str. UserError unless it is a finite number and a signature."""
    if not (isinstance(found, tuple) and len(found) == 2 and isinstance(found[1], str)):
        raise UserError(f"a metric must return a number and a signature, not {found!r}")
    value = float(found[0])
    if isinstance(found[0], str) or not math.isfinite(value):
        raise UserError(f"{found[0]!r} is not a finite number")
    return value, found[1]


def tokens_of(signature: str) -> str:
    """Returns the tokenizer that a BLEU signature names, for example 13a in "nrefs:1|...|tok:13a|..."."""
    return next((part.removeprefix("tok:") for part in signature.split("|") if part.startswith("tok:")), "")
