"""The work directory of a run: its layout, its lock, and checks that what it holds belongs to the same run.

config.json   vocab.model (source.model)   checkpoints/<step>/   metrics.jsonl   events.*   figures/   evaluation/
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from difflib import get_close_matches
from pathlib import Path
from typing import IO, Any

from data.corpora import is_own_text
from data.corpora.corpus import SPLITS
from data.folders import atomic_folder, remove_abandoned
from data.tokenizer import SOURCE_VOCABULARY, VOCABULARY, Tokenizer
from transformer.checkpoint import Checkpoint, read_json, read_meta, save_averaged, saved_steps
from transformer.config import Experiment, UserError

# Settings with the paths of the user's own files. They may move: the files are identified by their hashes.
PATHS = (*(f"data.{split}_{side}" for split in SPLITS for side in ("src", "tgt")), "data.vocabulary")

# Settings that change the results only by rounding: which devices and which kernels compute them.
ROUNDING = ("mesh", "model.kernels")

# Settings that may change when a run resumes: none of them affects the results up to a given step.
MAY_CHANGE = (
    *PATHS,
    *ROUNDING,
    "data.languages",
    "data.max_unknown",
    "train.steps",
    "train.log_every",
    "train.eval_every",
    "train.eval_sentences",
    "train.keep",
    "train.max_bad_steps",
    "train.patience",
    "train.stop_at",
    "decode.",
    "note",
)


class WorkDir:
    """The paths in the work directory of one run, and the checks on its contents."""

    def __init__(self, path: Path):
        self.path = path
        self.lock = path / ".lock"
        self.config = path / "config.json"
        self.vocabulary = path / VOCABULARY
        self.checkpoints = path / "checkpoints"
        self.metrics = path / "metrics.jsonl"
        self.figures = path / "figures"
        self.evaluation = path / "evaluation"

    def claim(self, experiment: Experiment, tokenizer: Tokenizer, text: dict[str, Any] | None = None) -> IO[bytes]:
        """Locks the directory for this run, and writes its settings and vocabulary.

        The lock is held until the returned file is closed. Without a checkpoint there is nothing to lose, and existing
        settings are overwritten.

        Args:
            text: the manifest of the prepared data.

        Raises:
            UserError: another process is training here, or the directory has checkpoints of another experiment,
                corpus or vocabulary.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path} is not a directory")
        self.path.mkdir(parents=True, exist_ok=True)
        lock = self.lock.open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.close()
            raise UserError(f"another process is training in {self.path}") from error
        try:
            if saved_steps(self.checkpoints):
                self._check(experiment, tokenizer, text)
            elif self.config.exists():
                self._check_ours()
        except UserError:
            lock.close()
            raise
        files = tokenizer.files()
        for name, content in files.items():
            write_whole(self.path / name, content)
        if SOURCE_VOCABULARY not in files:  # that of settings that are now overwritten
            (self.path / SOURCE_VOCABULARY).unlink(missing_ok=True)
        write_whole(self.config, (json.dumps(asdict(with_absolute_paths(experiment)), indent=2) + "\n").encode())
        return lock

    def _check_ours(self) -> None:
        try:
            self.experiment()
        except UserError as error:
            raise UserError(f"{error}; choose another --workdir") from error

    def _check(self, experiment: Experiment, tokenizer: Tokenizer, text: dict[str, Any] | None) -> None:
        if self.is_average():
            raise UserError(
                f"{self.path} holds a checkpoint average, which has no optimizer state to resume from: "
                f"choose another --workdir"
            )
        if self.config.exists():
            differing = differences(asdict(self.experiment()), asdict(experiment))
            if blocking := [name for name in differing if not name.startswith(MAY_CHANGE)]:
                raise UserError(
                    f"{self.path} holds another experiment (it differs in {', '.join(blocking)}): "
                    f"move that run away, or train in another --workdir"
                )
        else:
            raise UserError(f"{self.path} has checkpoints but no config.json: choose another --workdir")
        if text:
            self.check_text(self.newest_meta().get("data"), text)
        if self.vocabulary.exists() and Tokenizer.load(self.path).sha256 != tokenizer.sha256:
            raise UserError(f"{self.vocabulary} is not the vocabulary of this data: choose another --workdir")

    def text(self) -> dict[str, Any] | None:
        """Returns the sources of the text that the run was trained on, for `prepare`; None without a checkpoint."""
        sources: dict[str, Any] | None = self.newest_meta().get("data", {}).get("sources")
        return sources

    def newest_meta(self) -> dict[str, Any]:
        """Returns the metadata of the newest checkpoint; empty if there is none."""
        try:
            return read_meta(self.checkpoints, "last")
        except UserError:  # there is none yet, or it is damaged, which is reported where it is restored
            return {}

    def is_average(self) -> bool:
        """Returns whether this directory was written by `average`."""
        return "averaged" in self.newest_meta()

    def check_text(self, trained: dict[str, Any] | None, text: dict[str, Any]) -> None:
        """Raises UserError if a run would resume with a different corpus than it was trained on.

        Args:
            trained: the manifest of the corpus that the run was trained on, if it is known.
            text: the manifest of the corpus to resume with.
        """
        if trained and (changed := changed_text(trained, text)):
            raise UserError(
                f"the text is not the one that {self.path} was trained on ({', '.join(changed)}): "
                f"choose another --workdir"
            )

    def check_averageable(self, steps: list[int]) -> None:
        """Raises UserError unless the checkpoints of these steps share one experiment and vocabulary."""
        metas = {step: read_meta(self.checkpoints, str(step)) for step in steps}
        newest = metas[steps[-1]]
        for step, meta in metas.items():
            if "averaged" in meta and len(steps) > 1:
                raise UserError(
                    f"{self.checkpoints}: checkpoint {step} is already an average, which cannot be averaged again"
                )
            differing = [
                name
                for name in differences(meta["experiment"], newest["experiment"])
                if not name.startswith(MAY_CHANGE)
            ]
            differing += ["vocabulary"] * (meta["vocabulary"] != newest["vocabulary"])
            differing += changed_parts(meta.get("parts", {}), newest.get("parts", {}))
            if "made_of" in meta and "made_of" in newest and not differing:
                differing += changed_classes(meta["made_of"], newest["made_of"])
            if differing:
                raise UserError(
                    f"{self.checkpoints}: checkpoint {step} is from a different experiment than checkpoint {steps[-1]} "
                    f"(it differs in {', '.join(differing)})"
                )

    def with_current_data(self, experiment: Experiment) -> Experiment:
        """Returns a checkpoint's experiment with the current data paths and languages from config.json."""
        try:
            now = self.experiment().data
        except UserError:  # the checkpoints are enough to use a run
            return experiment
        names = [name.removeprefix("data.") for name in MAY_CHANGE if name.startswith("data.")]
        return replace(experiment, data=replace(experiment.data, **{name: getattr(now, name) for name in names}))

    def resumed(self, experiment: Experiment) -> tuple[Experiment, list[str]]:
        """Returns an experiment as it resumes in this directory, and a description of each setting that changes.

        If it does not give the languages of the user's own corpus, it keeps those of the run: leaving the flag out
        does not reset it.
        """
        try:
            before = self.experiment() if saved_steps(self.checkpoints) else experiment
        except UserError:  # `claim` reports it
            before = experiment
        if experiment.data.languages is None and is_own_text(experiment.data):
            experiment = replace(experiment, data=replace(experiment.data, languages=before.data.languages))
        old, new = asdict(before), asdict(experiment)
        names = [name for name in differences(old, new) if not name.startswith(PATHS)]
        return experiment, [f"{name} {value_of(new, name)} (was {value_of(old, name)})" for name in names]

    def settings(self) -> dict[str, Any]:
        """Returns config.json as a dict."""
        return read_json(self.config)

    def experiment(self) -> Experiment:
        """Returns the settings of the run. UserError names config.json and what is wrong with it."""
        return Experiment.from_dict(self.settings(), self.config)


def check_new(output: Path) -> None:
    """Raises UserError if there is something at the path of a new folder."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} exists: choose another --output")


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """Yields a temporary folder that becomes `output` once it is complete. UserError if there is something there."""
    check_new(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(output.parent)
    with atomic_folder(output) as folder:
        yield folder


def write_run(folder: Path, experiment: Experiment, tokenizer: Tokenizer, checkpoint: Checkpoint) -> None:
    """Writes a work directory with parameters alone, which can be used but from which training cannot resume."""
    run = WorkDir(folder)
    with run.claim(experiment, tokenizer):
        save_averaged(run.checkpoints, checkpoint)


def title_of(experiment: Experiment, run: WorkDir | None) -> str:
    """Returns the name of an experiment, after the path of the run that it is from: "runs/a (small)"."""
    return f"{run.path} ({experiment.name})" if run else experiment.name


def find_workdir(name: str | Path) -> WorkDir:
    """Returns the run at a path, or with a name under runs/. UserError if there is none, with similar ones."""
    if found := [path for path in _paths(name) if (path / "config.json").is_file()]:
        return WorkDir(found[0])
    raise UserError(no_such_run(name))


def find_evaluated(name: str | Path) -> WorkDir:
    """Returns a run, or the folder in which `evaluate` wrote about an ensemble. UserError if there is neither."""
    evaluated = [path for path in _paths(name) if (path / "evaluation").is_dir()]
    return WorkDir(evaluated[0]) if evaluated and not is_run(name) else find_workdir(name)


def ensemble_folder(runs: Sequence[WorkDir]) -> WorkDir:
    """Returns the folder of what belongs to an ensemble and to none of its runs: RUN1+RUN2, next to the first run.

    If other runs can have these names, since one is in another folder or its name has a +, a hash of their paths
    follows. UserError if the folder is that of a run.
    """
    paths = [run.path.resolve() for run in runs]
    name = "+".join(path.name for path in paths)
    if len({path.parent for path in paths}) > 1 or any("+" in path.name for path in paths):
        name += "-" + hashlib.sha256("\0".join(map(str, paths)).encode()).hexdigest()[:8]
    folder = paths[0].with_name(name)
    if is_run(folder):
        raise UserError(f"{folder}, the folder for the scores of this ensemble, is a run: rename that run")
    return WorkDir(folder)


def is_run(name: str | Path) -> bool:
    """Returns whether `find_workdir` would find a run."""
    return any((path / "config.json").is_file() for path in _paths(name))


def no_such_run(name: str | Path) -> str:
    """Returns the error message for a run that does not exist: similar ones, or else the newest ones."""
    paths = [path for path in _paths(name) if path.parts[:2] != ("runs", "runs")]
    problem = f"no run at {' or '.join(map(str, paths))}"
    if near := similar_runs(name):
        return f"{problem}; did you mean: {', '.join(near)}?"
    if runs := _runs_near(name):
        newest = sorted(runs, key=lambda run: run.stat().st_mtime, reverse=True)
        return f"{problem}; the newest runs are: {', '.join(map(str, newest[:3]))}"
    return f"{problem}: train one with `python -m experiments train NAME`"


def similar_runs(name: str | Path) -> list[str]:
    """Returns up to three runs whose path, or name under runs/, resembles this one."""
    runs = _runs_near(name)
    names = {str(run): run for run in runs}
    names |= {str(run.relative_to("runs")): run for run in runs if run.is_relative_to("runs")}
    found = [names[near] for near in get_close_matches(os.path.normpath(name), names)]
    return [str(run) for run in dict.fromkeys(found)]


def _runs_near(name: str | Path) -> list[Path]:
    """Returns the runs under runs/ and in the folder where this one would be."""
    folders = dict.fromkeys((Path(os.path.normpath(name)).parent, Path("runs")))
    found = [config.parent for folder in folders for config in folder.glob("*/config.json")]
    found += [config.parent for config in Path("runs").glob("*/*/config.json")]
    return [run for run in dict.fromkeys(found) if WorkDir(run).vocabulary.is_file()]  # others have a config.json too


def _paths(name: str | Path) -> list[Path]:
    return list(dict.fromkeys((Path(name), Path("runs") / name)))  # both are equal for an absolute path


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Returns the dotted names of the settings in which two experiments differ.

    A setting that did not exist yet when an experiment was saved has its default value. UserError for a dict that is
    not an experiment.
    """
    return _differing(asdict(Experiment.from_dict(old)), asdict(Experiment.from_dict(new)))


def changed_parts(old: dict[str, dict[str, str]], new: dict[str, dict[str, str]]) -> list[str]:
    """Describes each custom component whose file differs between two experiments."""
    both = [setting for setting in old if setting in new]
    return [f"the file of {setting}" for setting in both if old[setting].get("sha256") != new[setting].get("sha256")]


def changed_text(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Describes how the training and validation texts of two manifests differ; the names of files do not matter.

    The test text may differ, since nothing is trained or selected with it.
    """
    used = [role for role in new["sources"] if not role.startswith("test")]
    changed = [
        f"{new['sources'][role]['name']} differs, the {role}"
        for role in used
        if old["sources"].get(role, {}).get("sha256") != new["sources"][role]["sha256"]
    ]
    if changed:
        return changed
    counted = [(split, name) for split in ("train", "dev") for name in ("kept", "source_tokens", "target_tokens")]
    differing = [split for split, name in counted if old["splits"][split][name] != new["splits"][split][name]]
    return [
        f"the same files, but different tokens in {split}: prepared by another version of this code"
        for split in differing[:1]
    ]


def changed_classes(old: dict[str, dict[str, str]], new: dict[str, dict[str, str]]) -> list[str]:
    """Describes each module whose class, by its name and file, differs between two models."""
    paths = sorted(old.keys() | new.keys())
    return [f"the class of {path}" for path in paths if _identity(old.get(path)) != _identity(new.get(path))]


def _identity(origin: dict[str, str] | None) -> tuple[str | None, ...]:
    return tuple((origin or {}).get(name) for name in ("class", "sha256"))


def _differing(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    names = []
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            names += _differing(a, b, f"{prefix}{key}.")
        elif a != b:
            names.append(prefix + key)
    return names


def value_of(settings: dict[str, Any], name: str) -> Any:
    """Returns the setting with a dotted name."""
    for part in name.split("."):
        settings = settings[part]
    return settings


def with_absolute_paths(experiment: Experiment) -> Experiment:
    """Makes the paths of the user's own files absolute, so that a run can be used from any folder.

    A path that does not exist, such as one from another machine, stays as it is.
    """
    names = [name.removeprefix("data.") for name in PATHS]
    given = {name: Path(value) for name in names if (value := getattr(experiment.data, name))}
    found: dict[str, Any] = {name: str(path.absolute()) for name, path in given.items() if path.exists()}
    return replace(experiment, data=replace(experiment.data, **found))


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file atomically: under its name there is never a partial file."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)  # left over if the disk is full
