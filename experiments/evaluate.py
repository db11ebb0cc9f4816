"""`evaluate RUN`: translate a test set, score it, and write the record."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from data.corpora import SplitName, languages_of
from data.dataset import prepare
from experiments.records import make_record, write_record
from experiments.scoring import Score, Translated, score
from experiments.translator import Translator
from experiments.workdir import WorkDir, write_whole
from transformer.config import UserError


class Evaluation(NamedTuple):
    """A scored translation of a test set."""

    sources: list[str]
    outputs: list[str]
    references: list[str]
    scores: list[Score]
    record: Path


def evaluate(run: WorkDir, translator: Translator, split: SplitName, log: Callable[[str], None]) -> Evaluation:
    """Translates a split, and leaves text and record under <run>/evaluation/.

    The three text files are line by line what was scored: the `sacrebleu` command on them gives the same number.
    UserError, but with a record of the others, for a metric of the user's own that fails.
    """
    data = prepare(translator.experiment.data, log=log)
    if data.tokenizer.sha256 != translator.tokenizer.sha256:
        raise UserError(f"the vocabulary of {data.path} is not the one that {run.path} was trained with")
    files = {role: facts for role, facts in data.manifest["sources"].items() if role.split(".")[0] == split}
    run.evaluation.mkdir(exist_ok=True)
    sources, references = data.text(split, "source"), data.text(split, "target")
    if len(sources) != len(references):
        raise UserError(
            f"{len(sources)} sources and {len(references)} references in {data.path}: it has to be made anew"
        )
    start = time.monotonic()
    outputs = translator.translate(sources)
    seconds = time.monotonic() - start
    log(f"translated {len(sources)} sentences in {seconds:.1f} s")

    path = run.evaluation / f"{split}.json"
    path.unlink(missing_ok=True)  # it is of the texts that are replaced now
    texts = {}
    for role, lines in (("source", sources), ("output", outputs), ("reference", references)):
        content = "".join(line + "\n" for line in lines).encode()
        write_whole(run.evaluation / f"{split}.{role}.txt", content)
        texts[role] = hashlib.sha256(content).hexdigest()
    languages = languages_of(translator.experiment.data)
    scores, failed = score(Translated(sources, outputs, references, languages and languages.split("-")[1]))
    decode = asdict(translator.experiment.decode)
    record = make_record(translator.meta, scores, split, translator.steps, files, decode, seconds)
    write_record(path, record | {"texts": texts})
    if failed:
        raise UserError(f"{'; '.join(failed)}. The other scores are in {path}")
    return Evaluation(sources, outputs, references, scores, path)
