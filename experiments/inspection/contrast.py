"""`contrast RUN`: whether a model prefers right translations to wrong ones, by forced scores. Not in the paper.

Of each sentence there is a right translation, and wrong ones that differ from it in a word, such as a pronoun. A model
is right if it gives the right one a higher probability than every wrong one, given the sentences before it with their
right translations (Müller et al., 2018). A model of single sentences does not see those.

A file with contrasts has a JSON object in each line,

    {"source": "It is heavy.", "target": "Sie ist schwer.", "contrastive": ["Er ist schwer.", "Es ist schwer."],
     "context": [["I buy a lamp.", "Ich kaufe eine Lampe."]], "group": "sie"}

of which "context" and "group", what is counted separately, may be missing; or it is contrapro.json of ContraPro.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data.corpora import find_corpus, languages_of
from data.corpora.corpus import Contrast, WithContrasts
from data.dataset import default_data_dir
from data.encoding import Counts
from data.fetch import sha256_of
from data.text import Pair, read_lines
from experiments.evaluation.evaluate import text_of
from experiments.evaluation.records import make_record, write_record
from experiments.evaluation.test_sets import TestSet, label_of
from experiments.task import Score
from experiments.translator import Translator
from experiments.workdir import WorkDir, write_whole
from transformer.config import UserError, counted

Log = Callable[[str], object]


class Contrasts(NamedTuple):
    """A contrastive test."""

    name: str
    """Stem of the files under <run>/evaluation/."""
    label: str
    examples: list[Contrast]
    files: dict[str, dict[str, str]]
    """Where they come from, by role: name and SHA-256."""


class Share(NamedTuple):
    """How many of some examples are right."""

    right: int
    examples: int

    @property
    def percent(self) -> float:
        """The percentage."""
        return 100 * self.right / self.examples

    def interval(self) -> tuple[float, float]:
        """The 95% interval of the percentage, by Wilson (1927): it is within 0 and 100."""
        z, n, p = 1.959964, self.examples, self.right / self.examples
        middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        low, high = ((middle + side * half) / (1 + z * z / n) for side in (-1, 1))
        return 100 * max(0.0, low), 100 * min(1.0, high)

    def __str__(self) -> str:
        low, high = self.interval()
        return f"{self.percent:6.2f}   {low:.1f} to {high:.1f}, of {counted(self.examples, 'example')}"


class Contrasted(NamedTuple):
    """The result of a contrastive test."""

    total: Share
    chance: float
    """The percentage that guesses would have."""
    groups: dict[str, Share]
    record: Path
    published: list[str]
    """The translations that the model prefers."""

    def lines(self) -> Iterator[str]:
        """Yields lines to print."""
        yield f"accuracy   {self.total}"
        yield f"by chance  {self.chance:6.2f}"
        for group, share in self.groups.items():
            yield f"{group or 'no group':10} {share}"


def own_contrasts(translator: Translator, log: Log) -> Contrasts:
    """Returns the contrastive test of the run's corpus. UserError if it has none."""
    corpus = find_corpus(translator.experiment.data)
    if not isinstance(corpus, WithContrasts):
        raise UserError(f"{corpus.name} has no contrastive test of its own: give one with --pairs FILE")
    found, sources = corpus.contrasts("test", default_data_dir() / "downloads", log)
    return Contrasts(
        "contrast", f"{corpus.name} contrast", found, {role: source._asdict() for role, source in sources.items()}
    )


def read_contrasts(path: Path, context: tuple[Path, Path] | None = None) -> Contrasts:
    """Reads a contrastive test from a file.

    Args:
        context: of ContraPro, the files contrapro.context.en and contrapro.context.de of its conversion script.

    Raises:
        UserError: it is neither format, or an example is not complete. The message names the line or the number.
    """
    files = {"contrast.pairs": path}
    lines = list(read_lines(path))
    if lines and lines[0].lstrip().startswith("["):
        found = of_contrapro(parsed("\n".join(lines), str(path)), path, context)
        files |= dict(zip(("contrast.source", "contrast.target"), context or (), strict=False))
    elif context:
        raise UserError(f"{path} has its context in it: the context files are for contrapro.json of ContraPro")
    else:
        found = [
            contrast_of(parsed(line, f"{path}, line {number}"), f"{path}, line {number}")
            for number, line in enumerate(lines, start=1)
            if line.strip()
        ]
    if not found:
        raise UserError(f"{path} has no contrasts")
    facts = {role: {"name": str(file), "sha256": sha256_of(file)} for role, file in files.items()}
    digest = hashlib.sha256("".join(each["sha256"] for each in facts.values()).encode()).hexdigest()
    return Contrasts(f"{path.name.split('.')[0]}-{digest[:8]}", label_of(path, None), found, facts)


def parsed(text: str, where: str) -> Any:
    """Parses JSON. UserError if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({error})") from error


def contrast_of(given: Any, where: str) -> Contrast:
    """Reads an object of our own format. UserError if it is none."""
    known = {"source": str, "target": str, "contrastive": list, "context": list, "group": str}
    if not isinstance(given, dict):
        raise UserError(f"{where}: not a JSON object")
    if wrong := [name for name, value in given.items() if not isinstance(value, known.get(name, ()))]:
        raise UserError(f"{where}: unexpected {wrong[0]!r}; the fields are {', '.join(known)}")
    if missing := [name for name in ("source", "target", "contrastive") if not given.get(name)]:
        raise UserError(f"{where}: no {missing[0]!r}")
    context = given.get("context", [])
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in context):
        raise UserError(f"{where}: 'context' is a list of pairs, [[source, target], ...]")
    texts = [given["source"], given["target"], *given["contrastive"], *(text for pair in context for text in pair)]
    if not all(isinstance(text, str) and text.strip() and "\n" not in text for text in texts):
        raise UserError(f"{where}: every sentence is a line of text")
    if given["target"] in given["contrastive"]:
        raise UserError(f"{where}: a contrastive translation is the right one: {given['target']!r}")
    pairs = [(source, target) for source, target in context]
    return Contrast(pairs, given["source"], given["target"], given["contrastive"], given.get("group", ""))


def of_contrapro(given: list[dict[str, Any]], path: Path, context: tuple[Path, Path] | None) -> list[Contrast]:
    """Reads contrapro.json: groups are pairs of pronouns such as it:sie. See `read_contrasts`."""
    examples = []
    for number, one in enumerate(given, start=1):
        try:
            wrong = [error["contrastive"] for error in one["errors"]]
            pronouns = f"{one['src pronoun'].lower()}:{one['ref pronoun'].lower()}"
            fields = {"source": one["src segment"], "target": one["ref segment"], "contrastive": wrong}
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: example {number} is not one of ContraPro ({error!r})") from error
        examples.append(contrast_of(fields | {"group": pronouns}, f"{path}, example {number}"))
    if context is None:
        return examples
    sides = [list(read_lines(file)) for file in context]
    rows = sum(1 + len(one.contrastive) for one in examples)  # the script repeats the context for each translation
    size, rest = divmod(len(sides[0]), rows)
    if rest or len(sides[0]) != len(sides[1]):
        raise UserError(
            f"{context[0]} and {context[1]} have {len(sides[0]):,} and {len(sides[1]):,} lines: the same number is "
            f"expected, for each of {rows:,} translations in {path}"
        )
    pairs, at, complete = list(zip(*sides, strict=True)), 0, []
    for example in examples:
        before: list[Pair] = [pair for pair in pairs[at : at + size] if all(text.strip() for text in pair)]
        complete.append(example._replace(context=before))
        at += size * (1 + len(example.contrastive))
    return complete


def contrast(run: WorkDir, translator: Translator, test: Contrasts, log: Log) -> Contrasted:
    """Scores a contrastive test, and writes <run>/evaluation/<name>.json with the preferred translations beside it."""
    translator.check_searched("a contrastive test")
    start = time.monotonic()
    chosen = preferred(translator, test.examples)
    seconds = time.monotonic() - start
    log(f"scored {counted(len(test.examples), 'example')} in {seconds:.1f} s")
    right = [choice == 0 for choice in chosen]
    total = Share(sum(right), len(right))
    names = sorted({one.group for one in test.examples})
    groups = {name: [ok for ok, one in zip(right, test.examples, strict=True) if one.group == name] for name in names}
    shares = {name: Share(sum(each), len(each)) for name, each in groups.items()}
    chance = 100 * sum(1 / (1 + len(one.contrastive)) for one in test.examples) / len(right)
    low, high = total.interval()
    before = translator.experiment.data.context - 1
    signature = f"contrastive|log P(target)|sentences before:{before}|interval:Wilson|chance:{chance:.2f}"
    score = Score("accuracy", total.percent, signature, (high - low) / 2)
    text = TestSet(
        test.name,
        test.label,
        [one.source for one in test.examples],
        [one.target for one in test.examples],
        test.files,
        Counts(read=len(right), kept=len(right)).facts(),
        languages_of(translator.experiment.data),
    )
    outputs = [
        [one.target, *one.contrastive][choice] for one, choice in zip(test.examples, chosen, strict=True)
    ]  # fmt: skip
    record = make_record(
        translator.meta, [score], text, translator.selection, translator.steps, translator.experiment, seconds
    )
    details = {
        "group": {
            name: {"accuracy": share.percent, "low": share.interval()[0], "high": share.interval()[1]}
            | {"examples": share.examples}
            for name, share in shares.items()
        }
    }
    run.evaluation.mkdir(parents=True, exist_ok=True)
    path = run.evaluation / f"{test.name}.json"
    path.unlink(missing_ok=True)
    texts = {}
    for role, lines in (("source", text.sources), ("output", outputs), ("reference", text.references)):
        write_whole(run.evaluation / f"{test.name}.{role}.txt", text_of(lines))
        texts[role] = hashlib.sha256(text_of(lines)).hexdigest()
    write_record(path, record | {"details": details, "texts": texts})
    return Contrasted(total, chance, shares, path, outputs)


def preferred(translator: Translator, examples: Sequence[Contrast]) -> list[int]:
    """Returns for each example which translation is the most probable: 0 for the right one, k for the k-th wrong one.

    Of a right and a wrong one with equal probabilities, the wrong one.
    """
    each = [(one, target) for one in examples for target in (one.target, *one.contrastive)]
    found = translator.log_probs(
        [one.source for one, _ in each], [target for _, target in each], before=[one.context for one, _ in each]
    )
    totals, chosen, at = [sum(values) for values in found], [], 0
    for number, one in enumerate(examples, start=1):
        of_it = totals[at : at + 1 + len(one.contrastive)]
        if any(map(math.isnan, of_it)):
            raise UserError(f"example {number} has no log-probability: the parameters of the model are not finite")
        best = max(of_it)
        chosen.append(next((k for k in range(len(of_it) - 1, -1, -1) if of_it[k] == best), 0))
        at += len(of_it)
    return chosen
