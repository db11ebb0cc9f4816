"""Documents from chat dialogues, and a contrastive test of their pronouns, for models with and without context.

    python -m benchmarks.dialogues bcontrast.en.xz bcontrast.de.xz --output chat
    python -m benchmarks.dialogues bcontrast.en.xz bcontrast.de.xz --output chat --more europarl.en.xz europarl.de.xz

The English-German training dialogues of the WMT20 chat task (BConTrasT, Farajian et al., 2020) as plain text have no
boundaries. Here a dialogue begins with a greeting or an offer to help, at least five lines after the last beginning:
that finds 573 of them, where the task has 550. The lines of --more, other training text, are documents of one sentence.

The contrastive test is made here; it is no published one. Of a line that has one "it" in English, no other pronoun that
could be meant, and one of er, ihn, sie, es in German, the pronoun is exchanged for those of other genders. "sie" and
"es" are subject or object, so for them the masculine form, which is er or ihn, is left out. Lines are not checked by a
person, and most "es" stand for no noun at all ("it is late"). What says something are er, ihn and sie.

Test dialogues are those in which er, ihn or sie occur in this way. So the test is as large as it can be, and no model
is trained on it; every tenth of the others is for validation.
"""

import argparse
import json
import re
from pathlib import Path

from data.text import Pair, is_blank, read_pairs

GREETING = re.compile(r"\W*(hi|hello|hey|good (morning|afternoon|evening|day)|greetings|welcome|howdy)\b", re.I)
OFFER = re.compile(r".*\b(how|what)\b.{0,40}\b(help|assist|do for|service)\b", re.I)
LEAST = 5  # lines of a dialogue
IT = {"it", "it's", "it'll", "it'd"}
OTHERS = {"they", "them", "she", "her", "he", "him", "they're", "these", "those"}
WRONG = {"er": ("sie", "es"), "ihn": ("sie", "es"), "sie": ("es",), "es": ("sie",)}


def dialogues(pairs: list[Pair]) -> list[list[Pair]]:
    """Splits lines into dialogues."""
    found: list[list[Pair]] = []
    for pair in pairs:
        begins = GREETING.match(pair[0]) or OFFER.match(pair[0])
        if not found or (begins and len(found[-1]) >= LEAST):
            found.append([])
        found[-1].append(pair)
    return found


def variants(english: str, german: str) -> tuple[str, list[str]]:
    """Returns the pronoun of a German line, and the line with other ones; "" if the line is not part of the test."""
    words = re.findall(r"[a-z']+", english.lower())
    if sum(word in IT for word in words) != 1 or OTHERS & set(words):
        return "", []
    # At the beginning of a sentence Sie may be the polite "you", which has a capital everywhere.
    found = [m for m in re.finditer(r"\w+", german) if m[0] in WRONG or (m.start() == 0 and m[0] in ("Er", "Es"))]
    if len(found) != 1:
        return "", []
    (match,) = found
    other = [word.capitalize() if match[0][0].isupper() else word for word in WRONG[match[0].lower()]]
    return match[0].lower(), [german[: match.start()] + word + german[match.end() :] for word in other]


def contrasts(dialogue: list[Pair]) -> list[dict[str, object]]:
    """The contrastive examples of a dialogue, in the format of `contrast --pairs`, with all lines before."""
    examples: list[dict[str, object]] = []
    for i, (english, german) in enumerate(dialogue):
        pronoun, wrong = variants(english, german)
        if pronoun:
            same = {"source": english, "target": german, "contrastive": wrong, "group": pronoun}
            examples.append(same | {"context": [list(pair) for pair in dialogue[:i]]})
    return examples


def write(folder: Path, split: str, documents: list[list[Pair]]) -> None:
    """Writes a split, with a blank line between documents."""
    for side, language in enumerate(("en", "de")):
        text = "\n".join("".join(pair[side] + "\n" for pair in document) for document in documents)
        (folder / f"{split}.{language}").write_text(text, encoding="utf-8")


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("english", type=Path)
    parser.add_argument("german", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--more", type=Path, nargs=2, help="more training text")
    given = parser.parse_args()
    found = dialogues([pair for pair in read_pairs(given.english, given.german) if not is_blank(pair)])
    tests = [each for each in found if any(one["group"] != "es" for one in contrasts(each))]
    others = [each for each in found if each not in tests]
    more = [[pair] for pair in read_pairs(*given.more) if not is_blank(pair)] if given.more else []
    given.output.mkdir(parents=True, exist_ok=True)
    write(given.output, "train", [each for i, each in enumerate(others) if i % 10] + more)
    write(given.output, "dev", others[::10])
    write(given.output, "test", tests)
    examples = [one for each in tests for one in contrasts(each)]
    lines = [json.dumps(one, ensure_ascii=False) for one in examples]
    (given.output / "pronouns.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    print(f"{len(found)} dialogues: {len(tests)} for testing, with {len(examples)} contrastive examples")


if __name__ == "__main__":
    main()
