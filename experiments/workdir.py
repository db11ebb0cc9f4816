"""The work directory of a run: who owns it, and where everything in it stands.

config.json   vocab.model   checkpoints/<step>/   metrics.jsonl   events.*   figures/   evaluation/
"""

import fcntl
import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any

from data.corpora import SPLITS, is_own_text
from data.tokenizer import Tokenizer
from transformer.checkpoint import read_json, read_meta, saved_steps
from transformer.config import Experiment, UserError

# Where the user's own text was found last. What it is, its hash says.
PATHS = tuple(f"data.{split}_{side}" for split in SPLITS for side in ("src", "tgt"))

# What may change between two starts of one run: none of it touches the numbers up to a given step.
MAY_CHANGE = (
    *PATHS,
    "data.languages",
    "data.max_unknown",
    "train.steps",
    "train.log_every",
    "train.eval_every",
    "train.eval_sentences",
    "train.keep",
    "train.max_bad_steps",
    "decode.",
    "mesh",
    "note",
)


class WorkDir:
    """Paths of one run."""

    def __init__(self, path: Path):
        self.path = path
        self.lock = path / ".lock"
        self.config = path / "config.json"
        self.vocabulary = path / "vocab.model"
        self.checkpoints = path / "checkpoints"
        self.metrics = path / "metrics.jsonl"
        self.figures = path / "figures"
        self.evaluation = path / "evaluation"

    def claim(self, experiment: Experiment, tokenizer: Tokenizer, text: dict[str, Any] | None = None) -> IO[bytes]:
        """Makes the directory this run's, and keeps other processes out until the file it returns is closed.

        UserError if another process trains here, or if the directory's checkpoints are of another experiment, text (its
        manifest) or vocabulary. Without a checkpoint there is nothing to lose, and the settings are written anew.
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
        write_whole(self.vocabulary, tokenizer.to_bytes())
        write_whole(self.config, (json.dumps(asdict(experiment), indent=2) + "\n").encode())
        return lock

    def _check_ours(self) -> None:
        try:
            Experiment.from_dict(self.settings())
        except UserError as error:
            raise UserError(f"{self.config} is not the settings of a run: choose another directory") from error

    def _check(self, experiment: Experiment, tokenizer: Tokenizer, text: dict[str, Any] | None) -> None:
        if self.is_mean():
            raise UserError(f"{self.path} is a mean of checkpoints: there is nothing to go on training from")
        if self.config.exists():
            differing = differences(self.settings(), asdict(experiment))
            if blocking := [name for name in differing if not name.startswith(MAY_CHANGE)]:
                raise UserError(
                    f"{self.path} holds another experiment (it differs in {', '.join(blocking)}): "
                    f"move that run away, or train in another --workdir"
                )
        else:
            raise UserError(f"{self.path} has checkpoints but no config.json: choose another --workdir")
        if text:
            self.check_text(self.newest_meta().get("data"), text)
        if self.vocabulary.exists() and Tokenizer.load(self.vocabulary).sha256 != tokenizer.sha256:
            raise UserError(f"{self.vocabulary} is not the vocabulary of this data: choose another --workdir")

    def newest_meta(self) -> dict[str, Any]:
        """What the newest checkpoint says of itself; empty without one."""
        try:
            return read_meta(self.checkpoints, "last")
        except UserError:  # there is none yet; or it is damaged: for who reads it
            return {}

    def is_mean(self) -> bool:
        """Whether `average` made this directory."""
        return "averaged" in self.newest_meta()

    def check_text(self, trained: dict[str, Any] | None, text: dict[str, Any]) -> None:
        """UserError if a run that was trained with one text would go on with another. Both as in a manifest."""
        if trained and (changed := changed_text(trained, text)):
            raise UserError(
                f"the text is not the one that {self.path} was trained on ({', '.join(changed)}): "
                f"choose another --workdir"
            )

    def check_mixable(self, steps: list[int]) -> None:
        """UserError unless these checkpoints are of one experiment and vocabulary, so that their mean is a model."""
        metas = {step: read_meta(self.checkpoints, str(step)) for step in steps}
        newest = metas[steps[-1]]
        for step, meta in metas.items():
            if "averaged" in meta and len(steps) > 1:
                raise UserError(f"{self.checkpoints}: checkpoint {step} is a mean already")
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
                    f"{self.checkpoints}: checkpoint {step} is not of the experiment of checkpoint {steps[-1]} "
                    f"(it differs in {', '.join(differing)})"
                )

    def found_last(self, experiment: Experiment) -> Experiment:
        """A checkpoint's experiment with what config.json says now of its text: where it is, and its languages."""
        try:
            now = Experiment.from_dict(self.settings()).data
        except UserError:  # a run is known by its checkpoints
            return experiment
        names = [name.removeprefix("data.") for name in MAY_CHANGE if name.startswith("data.")]
        return replace(experiment, data=replace(experiment.data, **{name: getattr(now, name) for name in names}))

    def going_on(self, experiment: Experiment) -> tuple[Experiment, list[str]]:
        """An experiment as it goes on here, and in words what changes by it.

        Of text whose languages it does not say they are the run's: to leave the flag out is not to take it back.
        """
        try:
            before = Experiment.from_dict(self.settings()) if saved_steps(self.checkpoints) else experiment
        except UserError:  # `claim` says what is wrong
            before = experiment
        if experiment.data.languages is None and is_own_text(experiment.data):
            experiment = replace(experiment, data=replace(experiment.data, languages=before.data.languages))
        old, new = asdict(before), asdict(experiment)
        names = [name for name in differences(old, new) if not name.startswith(PATHS)]
        return experiment, [f"{name} {value_of(new, name)} (was {value_of(old, name)})" for name in names]

    def settings(self) -> dict[str, Any]:
        """config.json as a dict."""
        return read_json(self.config)


def find_workdir(name: str | Path) -> WorkDir:
    """The run of that path, or of that name under runs/. UserError if there is none."""
    if found := [path for path in _paths(name) if (path / "config.json").is_file()]:
        return WorkDir(found[0])
    paths = " or ".join(map(str, _paths(name)))
    raise UserError(f"no run at {paths}: train one with `python -m experiments train NAME`")


def is_run(name: str | Path) -> bool:
    """Whether `find_workdir` finds one, or the name can only be meant as a path."""
    return os.sep in str(name) or any((path / "config.json").is_file() for path in _paths(name))


def _paths(name: str | Path) -> list[Path]:
    return list(dict.fromkeys((Path(name), Path("runs") / name)))  # an absolute path is one of both


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Dotted names of the settings in which two experiments differ; one that was not there yet has its default.

    UserError for what are not the settings of an experiment.
    """
    return _differing(asdict(Experiment.from_dict(old)), asdict(Experiment.from_dict(new)))


def changed_parts(old: dict[str, dict[str, str]], new: dict[str, dict[str, str]]) -> list[str]:
    """In words, the settings whose parts of the user's own are not of one file in both."""
    both = [setting for setting in old if setting in new]
    return [f"the file of {setting}" for setting in both if old[setting].get("sha256") != new[setting].get("sha256")]


def changed_text(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """In words, where two manifests are not of one training and validation text. What its files are called is nothing.

    A test text may be another one: nothing is trained or chosen by it.
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
    return [f"the same files, but other tokens in {split}: another version of this code" for split in differing[:1]]


def changed_classes(old: dict[str, dict[str, str]], new: dict[str, dict[str, str]]) -> list[str]:
    """In words, the modules of two models that are not of one class, by its name and file."""
    places = sorted(old.keys() | new.keys())
    return [f"the class of {place}" for place in places if _identity(old.get(place)) != _identity(new.get(place))]


def _identity(made: dict[str, str] | None) -> tuple[str | None, ...]:
    return tuple((made or {}).get(name) for name in ("class", "sha256"))


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
    """The setting of a dotted name."""
    for part in name.split("."):
        settings = settings[part]
    return settings


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file so that its name never stands for half of it."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)  # of a disk that is full
