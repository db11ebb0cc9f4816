"""`compare A B`: is the difference between two systems significant, or is it chance?

Two sources of chance are tested separately. The sentences of the test set: paired bootstrap resampling and approximate
randomisation, both from sacrebleu. The random seed of training, if runs with several seeds are given: the mean and its
95% confidence interval. Neither test explains a difference, so every difference in how the two systems were scored is
reported. BLEU scores that were computed with different tokenizers are not compared at all.
"""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from sacrebleu.metrics.base import Metric
from sacrebleu.significance import PairedTest, Result

from data.fetch import sha256_of
from data.text import read_lines
from experiments.evaluation.intervals import interval
from experiments.evaluation.metrics import tokens_of
from experiments.evaluation.records import language_of, read_evaluation, runs_in
from experiments.evaluation.risk import MinimumRisk
from experiments.task import Task, task_of
from experiments.workdir import PATHS, ROUNDING, WorkDir, changed_parts, differences, find_evaluated, is_run
from transformer.config import DecodeConfig, Experiment, UserError, counted


class Scored(NamedTuple):
    """The translation of a test set by a run, or an ensemble of runs, with its record."""

    run: WorkDir
    record: dict[str, Any]
    outputs: list[str]
    references: list[str]

    def parts(self) -> dict[str, dict[str, str]]:
        """Returns the custom components that the run was trained with."""
        found: dict[str, dict[str, str]] = self.record.get("parts", {}).get("train", {})
        return found

    def protocol(self) -> dict[str, Any]:
        """Returns how the translation was produced and scored: everything that can explain a difference in scores."""
        runs = runs_in(self.record)
        # A setting that did not exist yet when a record was written has its default value.
        decode = asdict(DecodeConfig()) | runs[0]["settings"]["decode"]
        risk = self.record.get("mbr")
        return {
            "tokens": self.tokens(),
            "models": len(runs),
            "checkpoints": " + ".join(dict.fromkeys(map(checkpoints_of, runs))),
            **{name: value for name, value in decode.items() if name != "batch_size"},
            "choice": str(MinimumRisk(**risk)) if risk else "by score" if not decode["sample"] else "first sample",
            "parts": sorted({name for run in runs for name in run.get("parts", {}).get("evaluate", {})}),
        }

    def task(self) -> Task:
        """Returns the task of the run. UserError for one that is not registered."""
        return task_of(Experiment.from_dict(runs_in(self.record)[0]["settings"]).data)

    def tokens(self) -> str:
        """Returns the name of BLEU's tokenizer; "" if there is no BLEU."""
        signatures = {score["name"]: score["signature"] for score in self.record["scores"]}
        return tokens_of(signatures.get("BLEU", ""))


def checkpoints_of(run: dict[str, Any]) -> str:
    """Says how the checkpoints of a run were selected, and how many."""
    selection, count = str(run.get("selection", "not recorded")), len(run["checkpoints"])
    return f"{selection} ({count} averaged)" if count > 1 else selection


def read_scored(name: str, test_set: str) -> Scored:
    """Reads what `evaluate` wrote into a run. UserError if it is missing, or if a file has changed since."""
    run = find_evaluated(name)
    again = name if is_run(name) else "RUN1,RUN2"
    path = run.evaluation / f"{test_set}.json"
    if not path.exists():
        there = ", ".join(sorted(p.stem for p in run.evaluation.glob("*.json"))) or "none"
        raise UserError(
            f"{run.path} has no scored test set {test_set!r} (scored: {there}): "
            f"run `python -m experiments evaluate {again}`"
        )
    record = read_evaluation(path)
    texts = {role: run.evaluation / f"{test_set}.{role}.txt" for role in ("source", "output", "reference")}
    for role, file in texts.items():
        if not file.exists() or sha256_of(file) != record.get("texts", {}).get(role):
            raise UserError(f"{file} is not what {path} was made from: evaluate {again} again")
    return Scored(run, record, *(list(read_lines(texts[role])) for role in ("output", "reference")))


def compare(first: list[str], second: list[str], test_set: str) -> Iterator[str]:
    """Yields lines to print. Each system is one run, or several runs with different seeds, compared pair by pair.

    An ensemble that was evaluated is one system: the folder RUN1+RUN2 that has its record.

    Raises:
        UserError: a run is not scored, was scored on another text or by other metrics, or has BLEU of another
            tokenizer.
    """
    if len(first) != len(second):
        runs = counted(len(first), "run")
        raise UserError(
            f"{runs} of one system and {len(second)} of the other: give the same number of both "
            f"(an ensemble is one: the folder RUN1+RUN2 that `evaluate RUN1,RUN2` wrote)"
        )
    pairs = [(read_scored(a, test_set), read_scored(b, test_set)) for a, b in zip(first, second, strict=True)]
    base = pairs[0][0]
    references, tokens = base.references, base.tokens()
    for member in (member for pair in pairs for member in pair):
        if member.references != references:
            raise UserError(f"{member.run.path} and {base.run.path} were not scored on the same text")
        if (by := member.record["scores"][0]["name"]) != (first_by := base.record["scores"][0]["name"]):
            raise UserError(f"{member.run.path} is scored by {by} and {base.run.path} by {first_by}: no comparison")
        if (other := member.tokens()) != tokens:
            raise UserError(
                f"{member.run.path} and {base.run.path} have BLEU of different tokenizers ({other} and {tokens}), "
                f"which cannot be compared: evaluate both with the same --data.languages"
            )
    for system in ([a for a, _ in pairs], [b for _, b in pairs]):
        check_seeds(system)
    metrics = base.task().metrics(language_of(base.record))
    results: dict[str, list[Paired]] = {}
    for a, b in pairs:
        yield f"{a.run.path} and {b.run.path}, {test_set} set, {counted(len(references), 'line')}"
        left, right = a.protocol(), b.protocol()
        if differing := [name for name in left if left[name] != right[name]]:
            how = "; ".join(f"{name}: {left[name]} and {right[name]}" for name in differing)
            yield f"  warning: not scored the same way, which contributes to the difference ({how})"
        for metric, found in paired(a.outputs, b.outputs, references, metrics).items():
            results.setdefault(metric, []).append(found)
            yield f"  {metric:6} {found}"
    seeds = "n = 1: no interval" if len(pairs) == 1 else f"n = {len(pairs)} seeds, 95% interval"
    for metric, every in results.items():
        one, two = interval([p.first for p in every]), interval([p.second for p in every])
        yield f"{metric}: {one} and {two}, difference {interval([p.second - p.first for p in every])}   ({seeds})"


def check_seeds(system: list[Scored]) -> None:
    """Raises UserError unless the runs share one experiment and have different seeds.

    Otherwise their spread would not be that of the random seed.
    """
    if len(system) > 1 and (ensembles := [run for run in system if "members" in run.record]):
        raise UserError(f"{ensembles[0].run.path} is an ensemble, not one of several seeds: compare it by itself")
    for i, run in enumerate(system):
        for other in system[:i]:
            ours, theirs = run.record["settings"], other.record["settings"]
            differing = [
                name
                for name in differences(theirs, ours)
                if not name.startswith(("train.seed", "data.languages", "data.max_unknown", *ROUNDING, *PATHS))
            ]
            differing += ["the training text"] * (other.record["data"]["hash"] != run.record["data"]["hash"])
            differing += changed_parts(other.parts(), run.parts())
            differing += [name for name in sorted(other.parts().keys() ^ run.parts().keys()) if name not in differing]
            if other.protocol()["checkpoints"] != run.protocol()["checkpoints"]:
                differing.append("the selection of checkpoints")
            if other.protocol()["choice"] != run.protocol()["choice"]:
                differing.append("the choice among samples")
            if differing:
                raise UserError(
                    f"{other.run.path} and {run.run.path} are not runs of one system: they differ in "
                    f"{', '.join(differing)}"
                )
            if theirs["train"]["seed"] == ours["train"]["seed"]:
                raise UserError(
                    f"{other.run.path} and {run.run.path} have the same seed: give runs with different --train.seed"
                )


class Paired(NamedTuple):
    """The scores of two systems by one metric, and two p-values of their difference."""

    first: float
    second: float
    bootstrap: float
    randomisation: float

    def __str__(self) -> str:
        return (
            f"{self.first:6.2f} {self.second:6.2f}  {self.second - self.first:+.2f}   "
            f"p = {self.bootstrap:.4f} (bootstrap), {self.randomisation:.4f} (randomisation)"
        )


def paired(first: list[str], second: list[str], references: list[str], metrics: dict[str, Metric]) -> dict[str, Paired]:
    """Runs both significance tests for each metric."""

    def results(test: str, name: str) -> list[Result]:
        found = PairedTest([("A", first), ("B", second)], {name: metrics[name]}, [references], test_type=test)()[1]
        return [result for result in found[name] if isinstance(result, Result)]

    both = {}
    for metric in metrics:
        (a, b), (_, randomised) = results("bs", metric), results("ar", metric)
        assert b.p_value is not None and randomised.p_value is not None
        both[metric] = Paired(a.score, b.score, b.p_value, randomised.p_value)
        if a.score == b.score:  # sacrebleu counts the samples with a larger difference, and would find none here
            both[metric] = Paired(a.score, b.score, 1.0, 1.0)
    return both


def runs_of(argument: str) -> list[str]:
    """Splits a comma-separated list of runs, unless the argument is an existing path with a comma in it."""
    return [argument] if Path(argument).exists() else argument.split(",")
