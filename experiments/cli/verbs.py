"""The commands (verbs) of `python -m experiments`. Their flags are in experiments/cli/flags.py.

A verb is a function of the arguments after its name. Its docstring, "NAME ARGUMENTS: help", is its line in the usage.
"""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar, cast

from data.corpora import languages_of
from data.corpora.corpus import SplitName
from data.dataset import adopt, prepare
from data.folders import remove_empty
from data.languages import Languages
from data.text import is_blank_line
from experiments.cli.arguments import HELP, Arguments, configured, experiment_of, parse, run_of, take_config
from experiments.cli.flags import (
    Attending,
    Averaging,
    Comparing,
    Contrasting,
    Distilling,
    Evaluating,
    Explaining,
    Exporting,
    Importing,
    Inspecting,
    NoFlags,
    Planning,
    Preparing,
    Scoring,
    Serving,
    Speedrun,
    Table,
    Table1,
    Training,
    Translating,
)
from experiments.cli.help import describe
from experiments.cli.translating import lines_of, loaded, minimum_risk, translate
from experiments.evaluation.compare import compare, runs_of
from experiments.evaluation.evaluate import evaluate, publish
from experiments.evaluation.metrics import scores_told, target_language
from experiments.evaluation.records import RESULTS, read_evaluation, results_folder, results_table
from experiments.evaluation.test_sets import TestSet, find_test_set, own_split, read_files, read_labelled
from experiments.exchange.exchange import export_run, import_folder
from experiments.inspection.attention import merged, pair_of, to_json, to_page
from experiments.inspection.contrast import contrast, own_contrasts, read_contrasts
from experiments.inspection.figures import draw_attention, draw_curves
from experiments.inspection.inspect import inspect
from experiments.planning.explain import explain
from experiments.planning.plan import plan
from experiments.presets import EXPERIMENTS, find
from experiments.speedrun.runner import run_recipe
from experiments.speedrun.table import SEEDS, render_track
from experiments.speedrun.tracks import find_track
from experiments.streams import check_output, written
from experiments.tables.complexity import fill_table1
from experiments.tables.render import render_table, render_table1
from experiments.tables.runner import Number, experiments_of, fill
from experiments.task import task_of
from experiments.training.average import average_run
from experiments.training.distill import distill
from experiments.training.loop import train
from experiments.training.screen import Screen, has_screen, watch
from experiments.training.views import WeightsAndBiases
from experiments.translator import Translator, log_to_stderr
from experiments.workdir import WorkDir, ensemble_folder, find_workdir
from transformer.config import UserError, counted
from transformer.processes import is_first, join

Flags = TypeVar("Flags")


def read_flags(verb: Callable[[Arguments], None], default: Flags, arguments: Arguments, *names: str) -> Flags:
    """Parses the flags of a verb, which come after the names; `--help` prints them with the verb's description."""
    command = " ".join([verb.__name__.removeprefix("run_"), *names])
    parsed: Flags = parse(type(default), arguments, default, command, describe(verb, names))
    return parsed


def run_list(arguments: Arguments) -> None:
    """list: list the available experiments"""
    read_flags(run_list, NoFlags(), arguments)
    widths = max(map(len, EXPERIMENTS)), max(len(each.data.corpus) for each in EXPERIMENTS.values())
    for name, experiment in EXPERIMENTS.items():
        m, steps = experiment.model, counted(experiment.train.steps, "step")
        layers = counted(m.num_layers, "layer")
        if m.decoder_depth not in (0, m.num_layers):
            layers = f"{m.num_layers} + {m.decoder_depth} layers"
        print(f"{name:{widths[0]}} {experiment.data.corpus:{widths[1]}} {layers}, d_model {m.d_model}, {steps}")


def run_prepare(arguments: Arguments) -> None:
    """prepare NAME: download the corpus, learn the vocabulary, write token files"""
    named = experiment_of("prepare", arguments)
    given = read_flags(run_prepare, Preparing(named.experiment), named.flags, named.name)
    if given.from_dir:
        adopt(given.experiment.data, given.from_dir)
    task = task_of(given.experiment.data)
    missing = task.missing(target_language(given.experiment.data))
    if missing:  # warn first, since preparing may take hours
        print(f"warning: {missing}", flush=True)
    data = prepare(given.experiment.data, known=named.run.text() if named.run else None)
    if not missing and (wrong := task.warning(*data.texts("dev"), target_language(given.experiment.data))):
        print(f"warning: {wrong}")
    print(f"{counted(len(data.train), 'training pair')} in {data.path}")


def run_plan(arguments: Arguments) -> None:
    """plan NAME: show the size, time and cost of a run before it starts, and how it differs from the paper"""
    named = experiment_of("plan", arguments)
    given = read_flags(run_plan, Planning(named.experiment), named.flags, named.name)
    for line in plan(given.experiment, given.measure, log_to_stderr, given.target, named.run):
        print(line, flush=True)


def run_explain(arguments: Arguments) -> None:
    """explain NAME: show the model as the paper's equations with its sizes, and how it differs from the paper"""
    named = experiment_of("explain", arguments)
    given = read_flags(run_explain, Explaining(named.experiment), named.flags, named.name)
    for line in explain(given.experiment, named.run):
        print(line)


def run_inspect(arguments: Arguments) -> None:
    """inspect RUN: show the parameters of a checkpoint with their shapes and norms, and its provenance"""
    name, flags = run_of("inspect", arguments)
    given = read_flags(run_inspect, Inspecting(), flags, name)
    for line in inspect(find_workdir(name), given.checkpoint):
        print(line)


def run_train(arguments: Arguments) -> None:
    """train NAME: train, or resume a run that was stopped"""
    named = experiment_of("train", arguments)
    given = read_flags(run_train, Training(named.experiment), named.flags, named.name)
    join()
    run = trained(replace(given, workdir=given.workdir or (named.run.path if named.run else None)))
    if is_first():
        print(f"checkpoints {run.checkpoints}\ncurves      {draw_curves(run)}")


def trained(given: Training) -> WorkDir:
    """Trains, with a screen or log lines, and returns the work directory."""
    path = given.workdir or Path("runs") / given.experiment.name
    if is_first():
        check_folders(path)
    views = [WeightsAndBiases(WorkDir(path), given.experiment, given.wandb)] if given.wandb and is_first() else []
    if not (given.screen and has_screen() and is_first()):
        return train(given.experiment, path, views=views)
    with Screen(WorkDir(path), given.experiment) as screen:
        return train(given.experiment, path, screen.line, views)


def run_watch(arguments: Arguments) -> None:
    """watch RUN: show curves, speed and the latest sample of a run that trains in another process"""
    name, flags = run_of("watch", arguments)
    read_flags(run_watch, NoFlags(), flags, name)
    watch(find_workdir(name))


def one_run(name: str) -> WorkDir:
    """Returns the run with this name. UserError for several runs, where a command takes one."""
    if len(runs_of(name)) > 1:
        raise UserError(f"{name} is an ensemble: only `translate`, `serve`, `score` and `evaluate` take one")
    return find_workdir(name)


def run_translate(arguments: Arguments) -> None:
    """translate RUN: translate a file, standard input, or what you type (with an ensemble: RUN1,RUN2)"""
    name, flags = run_of("translate", arguments)
    given = read_flags(run_translate, Translating(), flags, name)
    translate(name, given)


def run_serve(arguments: Arguments) -> None:
    """serve RUN: translate over HTTP, with a page to type into (with an ensemble: RUN1,RUN2)"""
    name, flags = run_of("serve", arguments)
    given = read_flags(run_serve, Serving(), flags, name)
    try:
        from experiments.serving.service import Service
    except ModuleNotFoundError as error:
        remedy = 'pip install "attention-is-all-you-need-jax[serve]", or in a checkout pip install -e ".[serve]"'
        raise UserError(f"`serve` needs the package {error.name}: {remedy}") from error
    for flag in ("max_queue", "max_sentences", "ready_tokens"):
        if getattr(given, flag) < 1:
            raise UserError(f"--{flag.replace('_', '-')} must be at least 1, not {getattr(given, flag)}")
    if not 0 <= given.wait <= 60:
        raise UserError(f"--wait must be from 0 to 60 seconds, not {given.wait}")
    model = ",".join(find_workdir(run).path.resolve().name for run in runs_of(name))
    longest = min(given.ready_tokens, given.max_tokens)
    translator = loaded(name, given)
    if translator.experiment.data.context > 1:
        raise UserError(f"`serve` translates single sentences, and {name} is of documents (data.context): `translate`")
    Service(translator, model, given.host, given.port, given.wait, given.max_queue, given.max_sentences, longest).run()


def run_attention(arguments: Arguments) -> None:
    """attention RUN TEXT: show all attention weights of a sentence and its translation: interactive page, PNG, JSON"""
    name, rest = run_of("attention", arguments)
    # A sentence may also begin with dashes, but the name of a flag contains no space.
    sentence, flags = (rest[0], rest[1:]) if rest and not re.match(r"(-h|--[\w.-]+)(=|$)", rest[0]) else ("", rest)
    given = read_flags(run_attention, Attending(), flags, name, "TEXT")
    if is_blank_line(sentence):
        raise UserError(f'`attention` needs a sentence after the run: attention {name} "A sentence."')
    if given.target is not None and is_blank_line(given.target):
        raise UserError("--target is empty: give a translation, or leave it out")
    if given.target is not None and (given.beam, given.alpha) != (None, None):
        raise UserError("--beam and --alpha control the search for a translation: they cannot be used with --target")
    if given.png_of and not given.png:
        raise UserError("--png-of selects what --png FILE shows: it needs --png FILE")
    run = one_run(name)
    page = given.html or (None if given.png or given.json else run.figures / "attention.html")
    outputs = [path for path in (given.html, given.png, given.json) if path]
    for file in outputs:
        check_output(file)
    if not outputs:
        check_folders(run.figures)
    if len({path.resolve() for path in outputs}) < len(outputs):
        raise UserError("two outputs have the same file name: the second would replace the first")
    pair = pair_of(loaded(name, given), run.path.resolve().name, sentence, given.target)
    if given.png:  # first, as it may be refused
        png_of = given.png_of or ("cross" if pair.shares is None else "encoder")
        if png_of not in pair.weights:
            raise UserError(f"--png-of {png_of}: this run labels its input, with an encoder only: --png-of encoder")
        draw_attention(merged(pair.attention) if given.words else pair.attention, given.png, png_of)
    if not outputs:
        run.figures.mkdir(exist_ok=True)
    for path, text_of in ((page, to_page), (given.json, to_json)):
        if path:
            with written(path) as output:
                output.write(text_of(pair, given.words))
    if not given.html and page:
        print(page)


def run_evaluate(arguments: Arguments) -> None:
    """evaluate RUN: translate the test set and score it, say by BLEU and chrF (of an ensemble: RUN1,RUN2)"""
    name, flags = run_of("evaluate", arguments)
    given = read_flags(run_evaluate, Evaluating(), flags, name)
    check_record(given.record)
    risk = minimum_risk(given)
    runs = [find_workdir(one) for one in runs_of(name)]
    run = runs[0] if len(runs) == 1 else ensemble_folder(runs)
    check_folders(run.evaluation)
    translator = loaded(name, given)
    if risk:
        translator.check_count(risk.samples)
    if given.max_unknown is not None:
        data = replace(translator.experiment.data, max_unknown=given.max_unknown)
        translator.experiment = replace(translator.experiment, data=data)
    result = evaluate(run, translator, test_set_of(translator, given), log_to_stderr, risk, given.peer)
    for line in scores_told(result.scores):
        print(line)
    for line in scores_told(result.peers):
        print(f"peer: {line}")
    print(f"record {result.record}")
    if given.record:
        publish(result, given.record)


def check_record(path: Path | None) -> None:
    """Raises UserError for a --record that cannot be written, or that is no record."""
    if path:
        check_folders(path.parent)
        if path.is_dir():
            raise UserError(f"{path} is a directory: --record needs a file")
        if path.exists():
            read_evaluation(path)  # refuse to overwrite a file that is not a record


def test_set_of(translator: Translator, given: Evaluating) -> TestSet:
    """Returns the test set that the flags select."""
    own_languages = languages_of(translator.experiment.data)
    languages = Languages.parse(given.languages) if given.languages else own_languages
    labels_of = translator.tokenizer.labels_of
    if given.test_src or given.test_tgt:
        if given.test_set != "test":
            raise UserError("--test-set and --data.test-tgt both select a test set: give only one of them")
        if given.test_tgt and not given.test_src and labels_of:
            return read_labelled(given.test_tgt, labels_of, translator.tokenizer, languages)
        if not (given.test_src and given.test_tgt):
            raise UserError("a test set in files needs both sides: --data.test-src FILE and --data.test-tgt FILE")
        return read_files(
            given.test_src, given.test_tgt, translator.tokenizer, languages, data=translator.experiment.data
        )
    own: SplitName | None = "test" if given.test_set == "test" else "dev" if given.test_set == "dev" else None
    if own:
        return own_split(translator, own, log_to_stderr, languages)
    return find_test_set(given.test_set, translator, languages, log_to_stderr)


def run_average(arguments: Arguments) -> None:
    """average RUN: save the average of checkpoints as a new run, and show the validation loss before and after"""
    name, flags = run_of("average", arguments)
    given = read_flags(run_average, Averaging(), flags, name)
    run = find_workdir(name)
    path = run.path.resolve()
    print(average_run(run, given.checkpoint, given.output or path.with_name(path.name + "-averaged"), print))


def run_distill(arguments: Arguments) -> None:
    """distill RUN: write its training text with its own translations, from which a simpler model learns more easily"""
    name, flags = run_of("distill", arguments)
    given = read_flags(run_distill, Distilling(), flags, name)
    path = one_run(name).path.resolve()
    print(distill(loaded(name, given), given.output or path.with_name(f"{path.name}-distilled"), log_to_stderr))


def run_export(arguments: Arguments) -> None:
    """export RUN: write the model as a folder for other programs, checked against the run"""
    name, flags = run_of("export", arguments)
    given = read_flags(run_export, Exporting(), flags, name)
    run = find_workdir(name)
    path = run.path.resolve()
    output = given.output or path.with_name(f"{path.name}-{given.format}")
    lines = sentences_of(given.sentences)
    if given.quantization != "float32" and given.format != "ctranslate2":
        raise UserError("--quantization is of --format ctranslate2: the other formats have float32 only")
    translator = Translator.load(run.path, given.checkpoint)
    print(export_run(translator, output, print, given.format, lines, given.quantization))


def sentences_of(path: Path | None) -> list[str]:
    """Returns the lines of --sentences. UserError if there is none; a blank line is not translated at all."""
    lines = [line for line in lines_of(path, "refuse") if line and line.strip()] if path else []
    if path and not lines:
        raise UserError(f"{path} has no sentence")
    return lines


def run_import(arguments: Arguments) -> None:
    """import DIR: write a model of `export`, transformers, fairseq or JoeyNMT as a run, which can be fine-tuned"""
    name, flags = run_of("import", arguments, "DIR")
    given = read_flags(run_import, Importing(), flags, name)
    path = Path(name).resolve()
    path = path.parent if path.is_file() else path  # one of several checkpoints
    output = given.output or path.with_name(f"{path.name}-imported")
    print(import_folder(Path(name), output, print, sentences_of(given.sentences)))


def run_contrast(arguments: Arguments) -> None:
    """contrast RUN: test whether the model gives right translations, say of pronouns, a higher score than wrong ones"""
    name, flags = run_of("contrast", arguments)
    given = read_flags(run_contrast, Contrasting(), flags, name)
    check_record(given.record)
    if bool(given.context_source) != bool(given.context_target):
        raise UserError("the context of ContraPro has both sides: --context-source FILE and --context-target FILE")
    context = (given.context_source, given.context_target) if given.context_source and given.context_target else None
    if context and not given.pairs:
        raise UserError("the context belongs to contrapro.json: it needs --pairs FILE")
    test = read_contrasts(given.pairs, context) if given.pairs else None
    run = one_run(name)
    check_folders(run.evaluation)
    translator = loaded(name, given)
    result = contrast(run, translator, test or own_contrasts(translator, log_to_stderr), log_to_stderr)
    for line in result.lines():
        print(line)
    print(f"record {result.record}")
    if given.record:
        publish(result, given.record)


def run_score(arguments: Arguments) -> None:
    """score RUN: print the log-probability of given translations, one per line (of an ensemble: RUN1,RUN2)"""
    name, flags = run_of("score", arguments)
    given = read_flags(run_score, Scoring(), flags, name)
    if not given.source or not given.target:
        raise UserError("`score` needs --source FILE and --target FILE")
    sources, targets = (lines_of(path, given.bad_lines) for path in (given.source, given.target))
    if len(sources) != len(targets):
        raise UserError(f"{given.source} has {counted(len(sources), 'line')} but {given.target} has {len(targets)}")
    # Split only at spaces: a piece may contain a no-break space.
    translations = [
        list(filter(None, line.split(" "))) if given.pieces else line for line in (line or "" for line in targets)
    ]
    values = loaded(name, given).score([line or "" for line in sources], translations, bad_lines=given.bad_lines)
    for value, *pair in zip(values, sources, targets, strict=True):
        print(f"{math.nan if None in pair else value:.6f}")


def run_demo(arguments: Arguments) -> None:
    """demo: train on the embedded corpus, translate and score its test set, draw the figures"""
    config, flags = take_config(arguments)
    given = read_flags(run_demo, Training(configured(find("demo"), config)), flags)
    run = trained(given)
    translator = Translator.load(run.path)
    result = evaluate(run, translator, "test", log_to_stderr)
    shown = range(0, len(result.sources), max(1, len(result.sources) // 10))
    for i in list(shown)[:10]:
        print(f"\nsource     {result.sources[i]}\noutput     {result.outputs[i]}\nreference  {result.references[i]}")
    print()
    for line in scores_told(result.scores):
        print(line)
    longest = max((result.sources[i] for i in shown), key=len)
    print("the corpus is an artificial grammar: these scores say nothing about translating real text")
    print(f"checkpoint {run.checkpoints}")
    print(f"curves     {draw_curves(run)}")
    print(f"attention  {draw_attention(translator.attention(longest), run.figures / 'attention.png')}")


def run_compare(arguments: Arguments) -> None:
    """compare A B: test whether two evaluated runs differ significantly (with several seeds: A0,A1 B0,B1)"""
    first, rest = run_of("compare", arguments, "A")
    second, flags = run_of("compare", rest, "B")
    given = read_flags(run_compare, Comparing(), flags, first, second)
    for line in compare(runs_of(first), runs_of(second), given.test_set):
        print(line)


def run_results(arguments: Arguments) -> None:
    """results: print a table of the published records and, outside a checkout of this code, those in ./results"""
    read_flags(run_results, NoFlags(), arguments)
    print(results_table(*dict.fromkeys((RESULTS, results_folder()))), end="")


def run_table(arguments: Arguments) -> None:
    """table N: train and score the missing rows of the paper's table 1, 2, 3 or 4, and render it from its records"""
    number, flags = run_of("table", arguments, "N")
    if number not in ("1", "2", "3", "4"):
        if HELP & set(flags):
            read_flags(run_table, Table(), flags, "N")
        raise UserError(f"unknown table {number!r}; the tables are: 1, 2, 3, 4")
    if number == "1":
        only = read_flags(run_table, Table1(), flags, number)
        check_folders(only.results)
        if not only.render:
            fill_table1(only.results, print)
        paths = render_table1(only.results)
    else:
        table = cast(Number, int(number))
        given = read_flags(run_table, Table(), flags, number)
        check_folders(given.results, given.runs)
        there = experiments_of(table, given.scale)
        rows = list(there) if given.rows is None else list(given.rows)
        if unknown := set(rows) - set(there):
            raise UserError(f"unknown row {min(unknown)!r}; the rows are: {', '.join(there)}")
        if not rows:
            raise UserError(f"--rows needs names of rows; the rows are: {', '.join(there)}")
        if given.seeds < 1:
            raise UserError(f"--seeds must be at least 1, not {given.seeds}")
        if not given.render:
            fill(table, given.scale, given.seeds, rows, given.runs, given.results, print)
        paths = render_table(table, given.scale, given.results)
    for path in paths:
        print(path)


def run_speedrun(arguments: Arguments) -> None:
    """speedrun TRACK: train a recipe on a track of the speedrun, and render the table of its records"""
    name, flags = run_of("speedrun", arguments, "TRACK")
    given = read_flags(run_speedrun, Speedrun(), flags, name)
    find_track(name)
    seeds = SEEDS if given.seeds is None else given.seeds
    if seeds < 1:
        raise UserError(f"--seeds must be at least 1, not {seeds}")
    check_folders(given.results, given.runs)
    if given.recipe is None and (given.text is not None or given.seeds is not None):
        raise UserError("--text and --seeds are for training: name a recipe with --recipe")
    if given.recipe is not None:
        run_recipe(name, given.recipe, seeds, given.text, given.runs, given.results, print)
    for path in (written := render_track(name, given.results)):
        print(path)
    if not written:
        print(f"{name} has no record yet: train a recipe with --recipe")


def check_folders(*paths: Path) -> None:
    """Raises UserError for a path that cannot become a folder, before anything is computed for it."""
    for path in paths:
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot create the folder {error.filename} ({error.strerror}): choose another path"
            ) from error
        finally:
            remove_empty(missing)  # leave no trace if the command fails before it writes


VERBS: dict[str, Callable[[Arguments], None]] = {
    "list": run_list,
    "demo": run_demo,
    "prepare": run_prepare,
    "plan": run_plan,
    "explain": run_explain,
    "train": run_train,
    "watch": run_watch,
    "translate": run_translate,
    "serve": run_serve,
    "attention": run_attention,
    "inspect": run_inspect,
    "evaluate": run_evaluate,
    "average": run_average,
    "distill": run_distill,
    "export": run_export,
    "import": run_import,
    "compare": run_compare,
    "score": run_score,
    "contrast": run_contrast,
    "table": run_table,
    "speedrun": run_speedrun,
    "results": run_results,
}
