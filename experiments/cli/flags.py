"""The flags of each command of `python -m experiments`, one dataclass per command.

The string below a field is the help text of its flag. Tyro keeps its line breaks, so a line ends with a sentence.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from experiments.evaluation.records import results_folder
from experiments.evaluation.risk import MetricName
from experiments.reader import MAX_TOKENS
from experiments.sentences import BadLines
from experiments.streams import PATIENCE
from transformer.config import Experiment

Flat = tyro.conf.arg(name="")  # flags of an experiment start with --model., --data. and so on, without --experiment.
Switch = tyro.conf.FlagCreatePairsOff  # a flag that only turns something on: --sample, without --no-sample
OnOrOff = Annotated[bool | None, tyro.conf.DisallowNone]  # --sample and --no-sample; None: neither was given
Needed = tyro.conf.arg(metavar="FILE", help_behavior_hint="(required)")  # optional for tyro; `score` checks it


@dataclass(frozen=True)
class NoFlags:
    """Flags of the commands that have none."""


@dataclass(frozen=True)
class Configured:
    """Flags of every command that takes an experiment."""

    experiment: Annotated[Experiment, Flat]
    config: Path | None = None
    """A JSON file with settings, all or some, in the format of a run's config.json. Flags override them."""


@dataclass(frozen=True)
class Training(Configured):
    """Flags of `train` and `demo`."""

    workdir: Path | None = None
    """Work directory of the run; training resumes from what it holds.
    Default: that of the named run, or runs/<name>."""
    screen: bool = True
    """In a terminal, show a screen with curves, speed and the latest sample instead of log lines."""
    wandb: str | None = None
    """Also log the run to this project of Weights & Biases."""


@dataclass(frozen=True)
class Explaining(Configured):
    """Flags of `explain`."""


@dataclass(frozen=True)
class Inspecting:
    """Flags of `inspect`."""

    checkpoint: str = "last"
    """Which checkpoint: "best" (lowest validation loss), "last", or a step."""


@dataclass(frozen=True)
class Planning(Configured):
    """Flags of `plan`."""

    measure: bool = True
    """Compile the training step and time a few steps on this device; takes minutes on a CPU."""
    target: str | None = None
    """Compile it for this accelerator instead, which need not be here: h100, 8xh100, h200, a100 or v5e-8.
    Shows memory, step time, hours and cost. Needs JAX's plugin for that platform."""


@dataclass(frozen=True)
class Preparing(Configured):
    """Flags of `prepare`."""

    from_dir: Path | None = None
    """Read a named corpus from this folder instead of the network: plain text, parquet files or archives (WMT14), or
    your copy of the Penn Treebank (WSJ)."""


@dataclass(frozen=True)
class Loading:
    """Flags of every command that takes a trained run."""

    checkpoint: str = "average"
    """Which checkpoint: "average", "best", "last", "ema", a step, or a comma-separated list of steps to average.
    "average" is of the newest train.keep checkpoints (section 6.1); "best" has the lowest validation loss, or the
    highest score with train.best = score; "ema" is the moving average of parameters in the last one (train.ema)."""
    alpha: float | None = None
    """Exponent of the length penalty. Default: the run's setting."""
    tag: str | None = None
    """Write this piece before each source line, such as <2de>: the language to translate into.
    Default: the run's setting; "" for none."""


@dataclass(frozen=True)
class Searching(Loading):
    """Flags of every command that translates."""

    beam: int | None = None
    """Beam size; 1 is greedy search. Of mask-predict, the number of lengths. Default: the run's setting."""
    iterations: int | None = None
    """Of mask-predict: number of passes through the decoder. Default: the run's setting."""


@dataclass(frozen=True)
class Decoding(Searching):
    """Flags of every command that translates a whole text."""

    batch_size: int | None = None
    """Sentences per batch. Default: the run's setting."""
    min_length: int | None = None
    """Minimum output length in pieces, without EOS. Default, here and below: the run's setting."""
    no_repeat_ngram: int | None = None
    """No sequence of this many pieces occurs twice in an output. 0: no such rule."""
    forbid_unk: OnOrOff = None
    """No <unk> in an output."""
    replace_unk: OnOrOff = None
    """Write the source word that attention points at (last decoder layer, mean of its heads) in place of each <unk>."""
    only_trees: OnOrOff = None
    """Of a parser: only outputs that are a tree over the words of the sentence."""
    sample: OnOrOff = None
    """Draw translations at random from the model's distribution instead of searching, with a beam of 1.
    They depend only on --seed and the line number."""
    temperature: float | None = None
    """With --sample: divide the logits by this. Below 1, likely pieces become likelier."""
    top_k: int | None = None
    """With --sample: draw only from this many likeliest pieces. 0: from all."""
    top_p: float | None = None
    """With --sample: draw only from the likeliest pieces that together reach this probability."""
    seed: int | None = None
    """With --sample: the seed."""


@dataclass(frozen=True)
class Choosing(Decoding):
    """Flags of every command that can choose among samples."""

    mbr: int | None = None
    """With --sample: draw this many samples of each line, and take the one most like the others.
    This is minimum Bayes risk decoding (Eikema and Aziz, 2020)."""
    mbr_metric: MetricName | None = None
    """With --mbr: how alike two samples are, by sacreBLEU's sentence-level metric. Default: chrf."""


@dataclass(frozen=True)
class Evaluating(Choosing):
    """Flags of `evaluate`."""

    test_set: str = "test"
    """Which test set: test or dev of the run's corpus, or another one of that corpus or of sacreBLEU.
    For example test_2017_flickr of Multi30k, or wmt17 of sacreBLEU."""
    test_src: Annotated[Path | None, tyro.conf.arg(name="data.test-src")] = None
    """Source side of a test set in your own files, instead of --test-set."""
    test_tgt: Annotated[Path | None, tyro.conf.arg(name="data.test-tgt")] = None
    """Target side (references) of a test set in your own files; of labels, the one file with texts and labels."""
    languages: Annotated[str | None, tyro.conf.arg(name="data.languages")] = None
    """Language pair, such as en-zh; selects the tokenizer of BLEU. Default: the run's setting."""
    max_unknown: Annotated[float | None, tyro.conf.arg(name="data.max-unknown")] = None
    """Refuse a text with a larger fraction of <unk> tokens than this. Default: the run's setting."""
    peer: Annotated[bool, Switch] = False
    """Of labels: also train and score logistic regression on words, by scikit-learn, on the same text."""
    record: Path | None = None
    """Also write the record to this file, and the outputs next to it.
    `results` reads experiments/results in a checkout of this code, and ./results elsewhere."""


@dataclass(frozen=True)
class Averaging:
    """Flags of `average`."""

    checkpoint: str = "average"
    """Which checkpoints: "average" (the newest train.keep), or a comma-separated list of steps."""
    output: Path | None = None
    """Work directory of the new run. Default: RUN-averaged, next to RUN."""


@dataclass(frozen=True)
class Distilling(Decoding):
    """Flags of `distill`."""

    output: Path | None = None
    """Folder for the text. Default: RUN-distilled, next to RUN. What an interrupted call wrote there is kept."""


@dataclass(frozen=True)
class Exporting:
    """Flags of `export`."""

    checkpoint: str = "average"
    """Which checkpoint: "average" (of the newest train.keep), "best", "last", "ema", a step, or a list of steps."""
    format: Literal["safetensors", "marian", "ctranslate2"] = "safetensors"
    """safetensors: our own, which `import` reads: config.json, vocab.model and model.safetensors.
    marian: a folder that MarianMTModel and MarianTokenizer of Hugging Face transformers load.
    ctranslate2: a folder that ctranslate2.Translator loads, with the vocabularies as source.spm and target.spm."""
    quantization: Literal["float32", "int16", "int8"] = "float32"
    """ctranslate2: type of the matrices."""
    sentences: Path | None = None
    """marian, ctranslate2: translate the lines of this file with both programs.
    Default: the first of the validation text."""
    output: Path | None = None
    """Folder to write. Default: RUN-<format>, next to RUN."""


@dataclass(frozen=True)
class Importing:
    """Flags of `import`."""

    sentences: Path | None = None
    """A model of another program: translate the lines of this file there and here. Default: random texts."""
    output: Path | None = None
    """Work directory of the new run. Default: DIR-imported, next to DIR."""


@dataclass(frozen=True)
class Comparing:
    """Flags of `compare`."""

    test_set: str = "test"
    """Which evaluated test set: test, dev, or the name that `evaluate` printed."""


@dataclass(frozen=True)
class Translating(Choosing):
    """Flags of `translate`."""

    draft: str | None = None
    """Let this smaller run, RUN or RUN:CHECKPOINT, with the same vocabulary, draft the pieces of a greedy search
    (--beam 1): the outputs remain the same, and take fewer steps of the large model (speculative decoding)."""
    draft_length: int = 4
    """With --draft: number of pieces that are drafted at a time."""
    input: Path | None = None
    """Input text, one sentence per line: a file (.gz and .xz are decompressed) or a pipe. Default: standard input."""
    output: Path | None = None
    """Output file, one translation per input line (.gz and .xz are compressed). Default: standard output."""
    resume: Annotated[bool, Switch] = False
    """Go on with an --output FILE that was interrupted: keep its complete lines. Use the same input and settings."""
    n_best: int = 1
    """Print up to this many distinct translations of each line, as "line number ||| score ||| text".
    Finished ones come first, best first, then those cut off at the length limit, marked " ||| cut off".
    With 1, only the text of the best one is printed. Samples are in the order drawn."""
    prefix: Path | None = None
    """What each translation begins with: a file with one prefix per input line, empty for none."""
    constraints: Path | None = None
    """What each translation contains: a file with phrases per input line, separated by tabs. Needs beam search."""
    pieces: bool = False
    """Print the subword pieces that the search found, separated by spaces and ending in </s>, instead of the text."""
    json: Annotated[bool, Switch] = False
    """Print one JSON object per input line: {"line": number, "translations": [...]}, the best translation first.
    Each has "text", "score", "finished" (or cut off), "pieces", and "log_probs", one for each piece."""
    alignments: Path | None = None
    """Write the word alignment of each translation to this file, a line each: "i-j" of source and target words from 0.
    With --json they are also in the objects, as "alignment". Words are what whitespace separates."""
    alignment_head: str | None = None
    """With --alignments: whose attention, as LAYER.HEAD from 1. Default: last decoder layer, mean of its heads."""
    bad_lines: BadLines = "skip"
    """How to handle a line that is not UTF-8 or too long. skip: print an empty line, and warn.
    refuse: stop with an error; lines already printed remain, but no --output file is written."""
    max_tokens: int = MAX_TOKENS
    """Longest accepted line, in tokens. Memory grows with the square of the length."""
    wait: float = PATIENCE
    """From a pipe: how many seconds a line waits for more lines, to be translated with them in one batch."""
    interactive: bool = False
    """Prompt for one sentence after another."""


@dataclass(frozen=True)
class Serving(Decoding):
    """Flags of `serve`."""

    host: str = "127.0.0.1"
    """Address to listen at. With the default, only programs of this machine can reach it."""
    port: int = 8000
    """Port to listen at; 0: any that is free. The address is printed once the service is ready."""
    wait: float = 0.01
    """How many seconds a request waits for others, to be translated with them, while the model has nothing to do."""
    max_queue: int = 1024
    """Most sentences that may wait; a request that does not fit is answered with 429, and may be repeated later."""
    max_sentences: int = 64
    """Most sentences in one request."""
    max_tokens: int = 512
    """Longest accepted sentence, in tokens. Memory grows with the square of the length."""
    ready_tokens: int = 32
    """Compile for sentences of up to this many tokens before being ready; for longer ones when the first comes."""


@dataclass(frozen=True)
class Attending(Searching):
    """Flags of `attention`."""

    target: str | None = None
    """The translation to analyse. Default: the one that the model produces."""
    html: Path | None = None
    """Write an interactive page to this file. Default, if there is no other output: RUN/figures/attention.html."""
    png: Path | None = None
    """Write a figure with every layer and head to this file."""
    png_of: Literal["encoder", "decoder", "cross"] | None = None
    """Which attention the figure shows. Default: cross."""
    json: Path | None = None
    """Write the exact weights to this file."""
    words: bool = False
    """Merge the subword pieces of each word, in every output; the page can split them again."""


@dataclass(frozen=True)
class Table1:
    """Flags of `table 1`."""

    render: bool = False
    """Only render the existing record, without measuring."""
    results: Path = field(default_factory=results_folder)
    """Folder for the record and the rendered table."""


@dataclass(frozen=True)
class Table:
    """Flags of `table 2`, `table 3` and `table 4`."""

    scale: Literal["smoke", "small", "long", "paper"] = "paper"
    """Size of the runs (experiments/presets/scales.py)."""
    seeds: int = 1
    """Number of runs per row, with seeds 0, 1, ..."""
    rows: tuple[str, ...] | None = None
    """Train only these rows. Default: all."""
    render: bool = False
    """Only render the existing records, without training."""
    runs: Path = Path("runs")
    """Folder of the work directories; training resumes from what they hold."""
    results: Path = field(default_factory=results_folder)
    """Folder for the records and the rendered table."""


@dataclass(frozen=True)
class Speedrun:
    """Flags of `speedrun`."""

    recipe: str | None = None
    """Train this recipe: a name, or several changes together as "rotary+muon" (experiments/speedrun/recipes.py).
    Default: only render the records."""
    seeds: int | None = None
    """Number of runs of the recipe, with seeds 0, 1, ... Default: 3, as many as a record needs."""
    text: Path | None = None
    """Folder with the files of a track whose text is not downloaded, or, for the recipe `distilled`, from `distill`."""
    runs: Path = Path("runs")
    """Folder of the work directories; training resumes from what they hold."""
    results: Path = field(default_factory=results_folder)
    """Folder for the records and the rendered table."""


@dataclass(frozen=True)
class Contrasting(Loading):
    """Flags of `contrast`."""

    pairs: Path | None = None
    """The right and the wrong translations: a JSON object in each line, or contrapro.json of ContraPro.
    Default: the contrastive test of the run's corpus, if it has one."""
    context_source: Path | None = None
    """With contrapro.json: the sentences before, contrapro.context.en of ContraPro's conversion script."""
    context_target: Path | None = None
    """With contrapro.json: their translations, contrapro.context.de."""
    batch_size: int | None = None
    """Sentences per batch. Default: the run's setting."""
    record: Path | None = None
    """Also write the record to this file, and the preferred translations next to it."""


@dataclass(frozen=True)
class Scoring(Loading):
    """Flags of `score`."""

    batch_size: int | None = None
    """Sentences per batch. Default: the run's setting."""
    source: Annotated[Path | None, Needed] = None
    """Source text, one sentence per line: a file (.gz and .xz are decompressed) or a pipe."""
    target: Annotated[Path | None, Needed] = None
    """The translations to score, line by line: a file or a pipe, like the sources."""
    pieces: bool = False
    """The lines of --target are subword pieces separated by spaces, as `translate --pieces` prints them.
    They are scored as they are: other pieces can spell the same text, with another probability."""
    bad_lines: BadLines = "skip"
    """How to handle a line that is not UTF-8 or too long. skip: print nan for its pair, and warn.
    refuse: stop with an error."""
    max_tokens: int = MAX_TOKENS
    """Longest accepted line, in tokens. Memory grows with the square of the length."""
