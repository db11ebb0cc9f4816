"""`evaluate RUN`: translate a test set, score it, and write the record."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from data.encoding import Counts, encode_pairs
from experiments.records import make_record, write_record
from experiments.scoring import Score, Translated, check_language, score
from experiments.testsets import TestSet
from experiments.translator import Translator
from experiments.workdir import WorkDir, write_whole
from transformer.config import UserError


class Evaluation(NamedTuple):
    """A scored translation of a test set."""

    test_set: TestSet
    outputs: list[str]
    scores: list[Score]
    record: Path


def evaluate(run: WorkDir, translator: Translator, test_set: TestSet, log: Callable[[str], None]) -> Evaluation:
    """Translates a text, and leaves it with its record under <run>/evaluation/, by its name.

    The three text files are line by line what was scored: the `sacrebleu` command on them gives the same number.
    UserError, but with a record of the others, for a metric of the user's own that fails.
    """
    sources, references = test_set.sources, test_set.references
    language = test_set.languages.target if test_set.languages else None
    if wrong := check_language(references, language):
        log(f"warning: {wrong}")
    counts = counted(translator, test_set, log)
    log(f"{translator.selection}: {'mean of steps' if len(translator.steps) > 1 else 'step'} {translator.told_steps()}")
    start = time.monotonic()
    outputs = translator.translate(sources)
    seconds = time.monotonic() - start
    log(f"translated {len(sources)} sentences in {seconds:.1f} s")

    run.evaluation.mkdir(exist_ok=True)
    path = run.evaluation / f"{test_set.name}.json"
    path.unlink(missing_ok=True)  # it is of the texts that are replaced now
    texts = {}
    for role, lines in (("source", sources), ("output", outputs), ("reference", references)):
        content = "".join(line + "\n" for line in lines).encode()
        write_whole(run.evaluation / f"{test_set.name}.{role}.txt", content)
        texts[role] = hashlib.sha256(content).hexdigest()
    scores, failed = score(Translated(sources, outputs, references, language))
    decode = asdict(translator.experiment.decode)
    record = make_record(
        translator.meta, scores, test_set, counts.facts(), translator.selection, translator.steps, decode, seconds
    )
    write_record(path, record | {"texts": texts})
    if failed:
        raise UserError(f"{'; '.join(failed)}. The other scores are in {path}")
    return Evaluation(test_set, outputs, scores, path)


def publish(result: Evaluation, path: Path) -> None:
    """Copies a record to where it is kept, and the outputs beside it: other metrics can be computed of them later."""
    path.parent.mkdir(parents=True, exist_ok=True)
    output = result.record.with_name(f"{result.test_set.name}.output.txt")
    write_whole(outputs_of(path), output.read_bytes())
    write_whole(path, result.record.read_bytes())


def outputs_of(record: Path) -> Path:
    """The text of the outputs beside a kept record."""
    return record.with_suffix(".output.txt")
