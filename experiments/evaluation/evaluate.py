"""`evaluate RUN`: translate a test set, score it, and write the record."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from data.corpora.corpus import SplitName
from data.dataset import check_unknown
from experiments.evaluation.intervals import margin_of
from experiments.evaluation.records import ensemble_record, make_record, outputs_of, write_record
from experiments.evaluation.risk import MinimumRisk
from experiments.evaluation.test_sets import TestSet, own_split
from experiments.evaluation.validation import warn_if_worse
from experiments.history import curve_of, read_metrics
from experiments.labels.peer import peer_of
from experiments.sentences import SKIPPED
from experiments.task import Score, Task, Translated, task_of
from experiments.translator import Translator
from experiments.workdir import WorkDir, write_whole
from transformer.config import UserError, counted


class Evaluation(NamedTuple):
    """A scored translation of a test set."""

    sources: list[str]
    outputs: list[str]
    references: list[str]
    scores: list[Score]
    record: Path
    published: list[str]
    """The outputs as they may be published beside the record: the parts of the sources in them are left out."""
    peers: list[Score]
    """The scores of the peer, if it was asked for."""


def evaluate(
    run: WorkDir,
    translator: Translator,
    text: TestSet | SplitName,
    log: Callable[[str], None],
    risk: MinimumRisk | None = None,
    peer: bool = False,
) -> Evaluation:
    """Translates and scores a split of the run's corpus or another test set; writes <run>/evaluation/.

    It writes the record and three text files: sources, outputs and references, line by line as they were scored. The
    `sacrebleu` command gives the same score for them. If a custom metric fails, the record has the other scores.

    Args:
        run: the run of the translator; for an ensemble, a folder of its own (`ensemble_folder`).
        text: of an ensemble, a split of the corpus of its first run.
        risk: scores the choice among this many samples; None: the best translation, or the first sample.
        peer: whether a simple model is trained and scored too, for labels (experiments/labels/peer.py).

    Raises:
        UserError: too many unknown tokens in the text, damaged metrics of the run, a custom metric that fails, or a
            choice among trees.
    """
    if risk:
        risk.check(translator.tokenizer)
    rows = read_metrics(run.metrics)  # if it is damaged, this is said before translating
    first = translator.members[0][1] if translator.members else translator
    trained_peer = peer_of(first.meta["data"], translator.tokenizer) if peer else None
    test_set = text if isinstance(text, TestSet) else own_split(translator, text, log)
    sources, references = test_set.sources, test_set.references
    language = test_set.languages.target if test_set.languages else None
    task = task_of(translator.experiment.data)
    if wrong := task.warning(sources, references, language):
        log(f"warning: {wrong}")
    check_unknown({test_set.name: test_set.counts}, translator.experiment.data)
    models = [(Path(name).resolve().name, model) for name, model in translator.members or [(str(run.path), translator)]]
    for name, model in models:
        if translator.members:
            log(f"{name}, one of {len(models)}:")
        warn_if_worse(model, log)
        what = "average of checkpoints" if len(model.steps) > 1 else "checkpoint"
        log(f"{what} {', '.join(map(str, model.steps))} ({model.selection}), {test_set.label}")
    choose = risk.choose(language) if risk else None
    start = time.monotonic()
    best_of_each = translator.n_best(sources, risk.samples if risk else 1, bad_lines="skip", choose=choose)
    found = [best[0] for best in best_of_each]
    if translator.experiment.data.context > 1:  # what separates documents is no line to score
        kept = [i for i, pair in enumerate(zip(sources, references, strict=True)) if any(map(str.strip, pair))]
        sources, references = ([lines[i] for i in kept] for lines in (sources, references))
        found = [found[i] for i in kept]
    outputs, skipped = [best.text for best in found], sum(best is SKIPPED for best in found)
    seconds = time.monotonic() - start
    log(f"translated {counted(len(sources), 'sentence')} in {seconds:.1f} s")
    repaired = sum(
        task.is_repaired(source, best.pieces[:-1] if best.finished else best.pieces)
        for source, best in zip(sources, found, strict=True)
        if best is not SKIPPED
    )
    if repaired:
        log(f"{counted(repaired, 'output')} had to be repaired")

    run.evaluation.mkdir(parents=True, exist_ok=True)
    path = run.evaluation / f"{test_set.name}.json"
    path.unlink(missing_ok=True)  # an old record describes the text files that are now replaced
    texts = {}
    for role, lines in (("source", sources), ("output", outputs), ("reference", references)):
        content = text_of(lines)
        write_whole(run.evaluation / f"{test_set.name}.{role}.txt", content)
        texts[role] = hashlib.sha256(content).hexdigest()
    published = [task.published(line) for line in outputs]
    if published != outputs:
        texts["published"] = hashlib.sha256(text_of(published)).hexdigest()
    scored_text = Translated(sources, outputs, references, language)
    scores, failed = scored_with_margins(task, scored_text)
    records = []
    for _, model in models:
        data = replace(model.experiment.data, max_unknown=translator.experiment.data.max_unknown)
        scored = replace(model.experiment, data=data, decode=translator.experiment.decode)
        records.append(make_record(model.meta, scores, test_set, model.selection, model.steps, scored, seconds, risk))
    record = ensemble_record([name for name, _ in models], records) if translator.members else records[0]
    details: dict[str, Any] = {"details": tables} if (tables := task.details(scored_text)) else {}
    if rows:
        details["curve"] = curve_of(rows)
    peers: list[Score] = []
    if trained_peer:
        peers, _ = scored_with_margins(task, scored_text._replace(outputs=trained_peer.label(sources)))
        details["peer"] = trained_peer.facts | {"scores": [score._asdict() for score in peers]}
    write_record(path, record | details | {"texts": texts, "skipped": skipped, "repaired": repaired})
    if failed:
        raise UserError(f"{'; '.join(failed)}. The other scores are in {path}")
    return Evaluation(sources, outputs, references, scores, path, published, peers)


def scored_with_margins(task: Task, text: Translated) -> tuple[list[Score], list[str]]:
    """Returns the scores of a task, with intervals for those that are metrics of sacreBLEU, and the failures."""
    scores, failed = task.score(text)
    metrics = task.metrics(text.language)
    return [
        score._replace(margin=margin_of(metrics[score.name], text.outputs, text.references))
        if score.name in metrics
        else score
        for score in scores
    ], failed


def text_of(lines: list[str]) -> bytes:
    """Returns the content of a file with these lines."""
    return "".join(line + "\n" for line in lines).encode()


class Scored(Protocol):
    """What can be published: a record, and the outputs as they may be published beside it."""

    @property
    def record(self) -> Path: ...

    @property
    def published(self) -> list[str]: ...


def publish(result: Scored, path: Path) -> None:
    """Copies a record to `path`, and the outputs next to it, so that other metrics can be computed later."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(outputs_of(path), text_of(result.published))
    write_whole(path, result.record.read_bytes())
