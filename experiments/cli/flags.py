"""What each verb of `python -m experiments` takes after its name: a class of flags for each."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from experiments.evaluation.records import results_folder
from experiments.sentences import BadLines
from experiments.translator import MAX_TOKENS
from transformer.config import Experiment

Flat = tyro.conf.arg(name="")  # an experiment's flags start with --model., --data. and so on, not with its own name
Needed = tyro.conf.arg(metavar="FILE", help_behavior_hint="(required)")  # optional to tyro, whose words are others


@dataclass(frozen=True)
class Configured:
    """Flags of every verb that takes an experiment."""

    experiment: Annotated[Experiment, Flat]
    config: Path | None = None
    """Settings from a JSON file, all or some, as in a run's config.json. Flags change them further."""


@dataclass(frozen=True)
class Training(Configured):
    """Flags of `train` and `demo`."""

    workdir: Path | None = None
    """Where the run is written, and found again. None: the run that was named, or runs/<name>."""
    screen: bool = True
    """In a terminal: one screen of curves, speed and the last sample, and not lines."""
    wandb: str | None = None
    """Show the run in this project of Weights & Biases too."""


@dataclass(frozen=True)
class Explaining(Configured):
    """Flags of `explain`."""


@dataclass(frozen=True)
class Inspecting:
    """Flags of `inspect`."""

    checkpoint: str = "last"
    """"best" (lowest validation loss), "last", or a step."""


@dataclass(frozen=True)
class Planning(Configured):
    """Flags of `plan`."""

    measure: bool = True
    """Compile every shape and run some steps on this device: minutes on a CPU."""


@dataclass(frozen=True)
class Preparing(Configured):
    """Flags of `prepare`."""

    from_dir: Path | None = None
    """Take a named corpus from this folder, not from the network: plain text, parquet files or archives (WMT14)."""


@dataclass(frozen=True)
class Loading:
    """Flags of every verb that takes a trained run."""

    checkpoint: str = "average"
    """"average" (of the newest that are kept, section 6.1), "best" (lowest validation loss), "last", a step, or the
    steps to average, with commas between."""
    alpha: float | None = None
    """Length penalty. None: as the run's experiment says."""


@dataclass(frozen=True)
class Searching(Loading):
    """Flags of every verb that translates."""

    beam: int | None = None
    """Beam size; 1 is greedy search. None: as the run's experiment says."""


@dataclass(frozen=True)
class Decoding(Searching):
    """Flags of every verb that translates a whole text."""

    batch_size: int | None = None
    """Sentences at a time. None: as the run's experiment says."""


@dataclass(frozen=True)
class Evaluating(Decoding):
    """Flags of `evaluate`."""

    test_set: str = "test"
    """Which text: test or dev of the run's corpus; a further test set of the corpus (test_2017_flickr of Multi30k), or
    one of sacreBLEU's (wmt17)."""
    test_src: Annotated[Path | None, tyro.conf.arg(name="data.test-src")] = None
    """A further test text of your own, source side, in place of --test-set."""
    test_tgt: Annotated[Path | None, tyro.conf.arg(name="data.test-tgt")] = None
    """Its translation."""
    languages: Annotated[str | None, tyro.conf.arg(name="data.languages")] = None
    """As in en-zh: decides how BLEU counts words. None: as the run's experiment says."""
    max_unknown: Annotated[float | None, tyro.conf.arg(name="data.max-unknown")] = None
    """A text of which a greater part of the tokens is <unk> is refused. None: as the run's experiment says."""
    record: Path | None = None
    """Also write the record here, e.g. experiments/results/NAME.json, and the outputs beside it."""


@dataclass(frozen=True)
class Averaging:
    """Flags of `average`."""

    checkpoint: str = "average"
    """"average" (of the newest that are kept), or steps with commas between."""
    output: Path | None = None
    """Where the new run is written. None: RUN-averaged, next to RUN."""


@dataclass(frozen=True)
class Comparing:
    """Flags of `compare`."""

    test_set: str = "test"
    """Which scored text of the runs: test, dev, or the name that `evaluate` printed."""


@dataclass(frozen=True)
class Translating(Decoding):
    """Flags of `translate`."""

    input: Path | None = None
    """A text, one sentence a line: a file (.gz and .xz are unpacked) or a pipe. None: standard input."""
    output: Path | None = None
    """Where the translations go, one line for each line. None: standard output."""
    n_best: int = 1
    """Print up to so many translations of each line, of different texts, as "line number ||| score ||| text": finished
    ones first, the best first, then those that their length limit cut off, with " ||| cut off" after them. 1: the
    plain text alone."""
    pieces: bool = False
    """Print the pieces that the search found, with spaces between and </s> at the end, and not the text."""
    bad_lines: BadLines = "skip"
    """A line that is no UTF-8, or too long. skip: an empty line in its place, and a warning. refuse: the end, with an
    error; what is printed before it stands, but no --output file is written."""
    max_tokens: int = MAX_TOKENS
    """A line of more is too long: memory grows with the square of the length."""
    interactive: bool = False
    """Ask for one sentence after another."""


@dataclass(frozen=True)
class Attending(Searching):
    """Flags of `attention`."""

    target: str | None = None
    """The translation to look at. None: the run's own."""
    html: Path | None = None
    """Where the page goes. None, and no other output: RUN/figures/attention.html."""
    png: Path | None = None
    """Where a picture of every layer and head goes."""
    png_of: Literal["encoder", "decoder", "cross"] | None = None
    """Which attention the picture shows. None: cross."""
    json: Path | None = None
    """Where the exact numbers go."""
    words: bool = False
    """Merge the pieces of each word, in every output; the page can take them apart again."""


@dataclass(frozen=True)
class Table1:
    """Flags of `table 1`."""

    render: bool = False
    """Measure nothing: render what there is."""
    results: Path = field(default_factory=results_folder)
    """Where the record and the rendered table go."""


@dataclass(frozen=True)
class Table:
    """Flags of `table 2` and `table 3`."""

    scale: Literal["smoke", "small", "paper"] = "paper"
    """How large the runs are (experiments/presets/scales.py)."""
    seeds: int = 1
    """Runs of each row, with seeds 0, 1, ..."""
    rows: tuple[str, ...] | None = None
    """Only these rows. None: all."""
    render: bool = False
    """Train nothing: render what there is."""
    runs: Path = Path("runs")
    """Where the runs are written, and found again."""
    results: Path = field(default_factory=results_folder)
    """Where the records and the rendered table go."""


@dataclass(frozen=True)
class Scoring(Loading):
    """Flags of `score`."""

    batch_size: int | None = None
    """Sentences at a time. None: as the run's experiment says."""
    source: Annotated[Path | None, Needed] = None
    """Source text, one sentence a line: a file (.gz and .xz are unpacked) or a pipe."""
    target: Annotated[Path | None, Needed] = None
    """The translations whose log-probability is asked for, line by line."""
    pieces: bool = False
    """The lines of --target are pieces with spaces between, as `translate --pieces` prints them, and are scored as they
    are: the same text may be spelled by other pieces too, with another probability."""
    bad_lines: BadLines = "skip"
    """A line that is no UTF-8, or too long. skip: the number of its pair is nan, and there is a warning. refuse: an
    error."""
    max_tokens: int = MAX_TOKENS
    """A line of more is too long: memory grows with the square of the length."""
