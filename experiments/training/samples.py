"""The translations of validation sentences that a run makes and scores while it trains."""

from dataclasses import replace

from data.dataset import PreparedData
from experiments.evaluation.metrics import target_language
from experiments.streams import visible
from experiments.task import task_of
from experiments.training.progress import Progress
from experiments.translator import Translator
from transformer.config import Experiment, counted
from transformer.parameters import Params

SAMPLES = 2  # sample translations that each validation logs


def greedy_translator(experiment: Experiment, data: PreparedData, params: Params) -> Translator:
    """Returns a translator for `sample_translations`, with greedy search.

    Building the model takes a second, so the translator is created once per run.
    """
    decode = replace(experiment.decode, beam=1, batch_size=experiment.train.eval_sentences)
    return Translator(params, replace(experiment, decode=decode), data.tokenizer, log=lambda _: None)


def sampled(experiment: Experiment, data: PreparedData) -> int:
    """Number of lines of the validation text that each validation translates."""
    whole = experiment.train.best == "score"
    return len(data.text("dev", "source")) if whole else experiment.train.eval_sentences


def sample_translations(
    translator: Translator, data: PreparedData, params: Params, step: int, progress: Progress
) -> float:
    """Translates validation sentences greedily, logs their score and some samples, and returns it."""
    translator.params, experiment = params, translator.experiment
    count = sampled(experiment, data)
    sources, references = data.text("dev", "source")[:count], data.text("dev", "target")[:count]
    outputs = translator.translate(sources, bad_lines="skip")  # a long line should not end the run
    task = task_of(experiment.data)
    value = task.validate(outputs, references, target_language(experiment.data))
    progress.log(f"step {step}: {task.metric} {value:.2f} on {counted(len(sources), 'validation sentence')}, greedy")
    progress.write(step, **{f"dev_{task.metric.lower()}": value})
    for texts in list(zip(sources, outputs, references, strict=True))[:SAMPLES]:
        sample = task.sample(*texts)
        progress.write(step, **sample)
        progress.log("\n".join(f"  {name:9}  {visible(text)}" for name, text in sample.items()))
    return value
