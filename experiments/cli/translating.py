"""Translates text from the command line: reads it, decodes as the flags say, and writes the translations."""

import math
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from experiments.cli.flags import Choosing, Loading, Scoring, Serving, Translating
from experiments.cli.output import head_of, lines_for
from experiments.cli.resuming import Begun, begun, check_resume, check_seen, remaining, resumed
from experiments.documents import following
from experiments.evaluation.compare import runs_of
from experiments.evaluation.metrics import target_language
from experiments.evaluation.risk import MinimumRisk
from experiments.history import minutes
from experiments.sentences import SKIPPED, BadLines
from experiments.streams import BLOCK, Group, check_output, chunks, opened, written
from experiments.training.start import run_and_checkpoint
from experiments.translator import Translator, log_to_stderr
from experiments.words import pharaoh
from transformer.config import OF_SAMPLING, DecodeConfig, UserError, counted


def loaded(name: str, given: Loading) -> Translator:
    """Loads the translator of a run, or of an ensemble; decoding flags that are given override the run's settings."""
    translator = Translator.load(names if len(names := runs_of(name)) > 1 else name, given.checkpoint)
    decode = translator.experiment.decode
    flags = {field: value for field, value in vars(given).items() if hasattr(decode, field) and value is not None}
    if "tag" in flags:
        flags["tag"] = flags["tag"] or None
    in_passes = translator.experiment.model.architecture == "mask-predict"
    # The settings of mask-predict are checked, except for alpha, which a run may have from the preset of a search.
    for name in flags.keys() & {"alpha"} if in_passes else flags.keys() - {"batch_size", "iterations"}:
        translator.check_searched(f"--{name.replace('_', '-')}")
    if flags.get("sample"):
        flags.setdefault("beam", 1)  # the run's setting is that of its beam search
    elif flags.get("sample") is False:  # the run's settings of sampling affect nothing else
        flags = {name: getattr(DecodeConfig, name) for name in OF_SAMPLING} | flags
    decode = replace(decode, **flags)
    if isinstance(given, Choosing) and given.mbr is not None:
        translator.check_searched("--mbr")
    if isinstance(given, Choosing) and given.mbr is not None and not decode.sample:
        raise UserError("--mbr chooses one of several samples: it needs --sample")
    translator.experiment = replace(translator.experiment, decode=decode)
    translator.tagged([])  # refuses a wrong tag before anything is read
    if isinstance(given, Translating | Scoring | Serving):
        if given.max_tokens < 2:
            raise UserError(f"--max-tokens must be at least 2 (one token and EOS), not {given.max_tokens}")
        translator.max_tokens = given.max_tokens
    if isinstance(given, Translating) and given.draft is not None:
        drafting = Translator.load(*run_and_checkpoint(given.draft, "average"))
        return translator.with_draft(drafting, given.draft_length)
    if isinstance(given, Translating) and given.draft_length != Translating.draft_length:
        raise UserError("--draft-length is of a draft: it needs --draft RUN")
    return translator


def minimum_risk(given: Choosing) -> MinimumRisk | None:
    """Returns how --mbr chooses among samples; None without it. UserError for flags that conflict."""
    if given.mbr is None:
        if given.mbr_metric:
            raise UserError("--mbr-metric says how --mbr compares samples: it needs --mbr N")
        return None
    return MinimumRisk(given.mbr, given.mbr_metric or "chrf")


def translate(name: str, given: Translating) -> None:
    """Translates the input with a run, or an ensemble, and writes the output. UserError for flags that conflict."""
    if given.interactive and (given.input or given.output):
        raise UserError("--interactive reads and writes the terminal: use it without --input and --output")
    if given.interactive and (given.prefix or given.constraints):
        raise UserError("--prefix and --constraints belong to the lines of a file: use them without --interactive")
    if given.json and given.pieces:
        raise UserError("--json has the pieces too: leave out --pieces")
    prefixes = lines_of(given.prefix, "refuse") if given.prefix else None
    constraints = lines_of(given.constraints, "refuse") if given.constraints else None
    risk = minimum_risk(given)
    if risk and given.n_best > 1:
        raise UserError("--mbr gives one translation of each line: use it without --n-best")
    if given.resume:
        check_resume(given)
    if not 0 <= given.wait < math.inf:
        raise UserError(f"--wait must be 0 or more seconds, not {given.wait}")
    head = head_of(given)
    outputs = [path for path in (given.output, given.alignments) if path]
    for each in outputs:
        check_output(each)
    if len({each.resolve() for each in outputs}) < len(outputs):
        raise UserError("--output and --alignments are the same file: one would replace the other")
    done = begun(given) if given.resume else Begun()
    count = lines_in(given.input) if given.input and given.input.is_file() else None
    if count is not None:  # before anything is loaded
        check_seen(done, count, given)
    translator = loaded(name, given)
    translator.check_count(samples := risk.samples if risk else given.n_best)
    if risk:
        risk.check(translator.tokenizer)
    choose = risk.choose(target_language(translator.experiment.data)) if risk else None
    if given.alignments:
        translator.check_alignable(head)
    size = translator.experiment.data.context
    if given.resume and size > 1:
        raise UserError("--resume goes on with single sentences, and this run is of documents (data.context)")
    before: list[tuple[str, str]] = []
    with (
        opened(given.input) as file,
        resumed(given, done) if given.resume else written(given.output, kept=True) as output,
        written(given.alignments) if given.alignments else nullcontext() as aligned,
    ):
        groups = chunks(file, str(given.input or "standard input"), given.bad_lines, log_to_stderr, given.wait)
        progress = Progress(count, done.lines) if count is not None else None
        if progress:
            translator.progress = progress.batch
        if prefixes is not None or constraints is not None:
            groups = iter(waiting := list(groups))
            count = sum(len(chunk) for _, chunk in waiting)
            for path, lines in ((given.prefix, prefixes), (given.constraints, constraints)):
                if lines is not None and len(lines) != count:
                    raise UserError(f"the input has {counted(count, 'line')} but {path} has {len(lines)}")
        groups = remaining(groups, done, given)
        for first, chunk in prompted(groups) if given.interactive else groups:
            here = slice(first - 1, first - 1 + len(chunk))
            results = translator.n_best(
                [line or "" for line in chunk],
                samples,
                first,
                given.bad_lines,
                prefixes=None if prefixes is None else [line or "" for line in prefixes[here]],
                constraints=None if constraints is None else [(line or "").split("\t") for line in constraints[here]],
                choose=choose,
                log_probs=given.json,
                before=before,
            )
            results = [best if line is not None else [SKIPPED] for line, best in zip(chunk, results, strict=True)]
            if size > 1:
                texts = [None if best[0] is SKIPPED else best[0].text for best in results]
                before = following(before, [line or "" for line in chunk], texts)[-size:]
            for line in lines_for(translator, given, chunk, results, first):
                print(line.text, file=output)
                if aligned:
                    aligned.writelines(pharaoh(links) + "\n" for links in line.alignments)
            output.flush()
            if aligned:
                aligned.flush()
            if progress:
                progress.group(len(chunk))


class Progress:
    """Says on stderr how fast a file is translated and how long it will take, at most once in `EVERY` seconds."""

    EVERY = 2.0

    def __init__(self, count: int, before: int = 0):
        self.count, self.skipped, self.before = count, before, before
        self.start = self.said = time.monotonic()

    def batch(self, done: int, _: int) -> None:
        """Counts sentences of the current group."""
        if time.monotonic() >= self.said + self.EVERY:
            self.say(self.before + done)

    def group(self, lines: int) -> None:
        """Counts a group that is written."""
        self.before += lines
        if self.before == self.count:
            self.say(self.before)
        else:
            self.batch(0, 0)

    def say(self, done: int) -> None:
        """Prints the line."""
        self.said = time.monotonic()
        took = self.said - self.start
        speed = max(done - self.skipped, 1) / max(took, 1e-9)
        left = f", {minutes((self.count - done) / speed)} left" if done < self.count else ""
        log_to_stderr(f"translated {done:,} of {counted(self.count, 'line')}, {speed:.1f} sentences/s{left}")


def lines_in(path: Path) -> int:
    """Number of lines of a file."""
    count, last = 0, b"\n"
    with opened(path) as file:
        while block := file.read(BLOCK):
            count += block.count(b"\n")
            last = block[-1:]
    return count + (last != b"\n")


def prompted(groups: Iterator[Group]) -> Iterator[Group]:
    """Yields the same groups, with a prompt before each; it goes to stderr, since stdout carries the translations."""
    while True:
        print("> ", end="", file=sys.stderr, flush=True)
        try:
            yield next(groups)
        except StopIteration:
            return


def lines_of(path: Path, bad_lines: BadLines) -> list[str | None]:
    """Reads all lines of a file or pipe; None for a line that is skipped."""
    with opened(path) as file:
        return [line for _, chunk in chunks(file, str(path), bad_lines, log_to_stderr) for line in chunk]
