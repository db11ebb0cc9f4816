"""`export RUN` and `import DIR`: a model in the format of another program, and back."""

from collections.abc import Callable, Sequence
from pathlib import Path

from data.held_out import held_out
from experiments.exchange.check import Log, Peer, Transformers, compare
from experiments.exchange.ctranslate import CTranslate2, Quantization, write_ctranslate2
from experiments.exchange.fairseq import read_fairseq
from experiments.exchange.folder import read_folder, write_folder
from experiments.exchange.imported import examples
from experiments.exchange.joeynmt import read_joeynmt
from experiments.exchange.marian import write_marian
from experiments.exchange.marian_import import read_marian
from experiments.translator import Translator
from experiments.workdir import new_folder, write_run
from transformer.checkpoint import Checkpoint, read_json
from transformer.config import UserError

FOREIGN: dict[str, Callable[[Path, Log], tuple[Translator, Peer]]] = {
    "config.yaml": read_joeynmt,
    "dict.*.txt": read_fairseq,
}
"""What reads the model of another program, by a file that only its folders have."""

SENTENCES = 32
"""Number of sentences that the check of an exchange translates, if none are given."""


def export_run(
    translator: Translator,
    output: Path,
    log: Log,
    kind: str = "safetensors",
    sentences: Sequence[str] = (),
    quantization: Quantization = "float32",
) -> Path:
    """Writes a model as a new folder, checks it, and returns its path.

    Args:
        kind: "safetensors" (our own), "marian" or "ctranslate2".
        sentences: what the check of another program's format translates; none: the first of the run's validation text.
        quantization: type of the weights, of the format ctranslate2.

    Raises:
        UserError: `output` exists and is not empty, the model cannot be expressed in this format, or the check failed,
            and nothing is left.
    """
    with new_folder(output) as folder:
        if kind == "safetensors":
            write_folder(translator, folder, log)
            return output
        if translator.tokenizer.of_trees:
            raise UserError(f"the {kind} format is for texts, the outputs of this run are trees: --format safetensors")
        translator.check_searched(f"--format {kind}")
        if translator.experiment.data.context > 1:
            raise UserError(
                f"the {kind} format is for single sentences, and this run is of documents: --format safetensors"
            )
        peer: Peer
        if kind == "marian":
            write_marian(translator, folder)
            peer = Transformers.load(folder, translator.experiment.model)
        else:
            write_ctranslate2(translator, folder, quantization)
            peer = CTranslate2(translator, folder, quantization)
        compare(translator, peer, list(sentences) or validation_sentences(translator), log)
    return output


def validation_sentences(translator: Translator) -> list[str]:
    """Returns the first sentences of the validation text of a run; random ones for an imported model."""
    data, trained = translator.experiment.data, translator.meta["data"]
    if not trained["sources"]:
        return examples(translator, SENTENCES)
    return held_out(data, "dev", translator.tokenizer, trained, log=translator.log).sources[:SENTENCES]


def import_folder(source: Path, output: Path, log: Log, sentences: Sequence[str] = ()) -> Path:
    """Writes an exported model, or one of another program, as a new run, and returns its path.

    Args:
        source: a folder, or one of the checkpoints in a folder of fairseq or JoeyNMT.
        sentences: what the check of another program's format translates; none: texts of random pieces.

    Raises:
        UserError: `output` exists and is not empty, `source` is not such a folder or is damaged, the model cannot be
            one of ours, or the check failed.
    """
    folder_of_it = source if source.is_dir() else source.parent
    if not source.exists():
        raise UserError(f"{source} is not a folder with a model")
    read = next((read for pattern, read in FOREIGN.items() if any(folder_of_it.glob(pattern))), None)
    if read is None and not source.is_dir():
        raise UserError(f"{source}: beside it there is no {' or '.join(FOREIGN)}")
    with new_folder(output) as folder:
        if read is None and "model_type" in read_json(source / "config.json"):
            read = read_marian
        if read:
            model, peer = read(source, log)
            compare(model, peer, list(sentences) or examples(model, SENTENCES), log)
        else:
            model = read_folder(source)
        write_run(folder, model.experiment, model.tokenizer, Checkpoint(model.params, model.meta, model.steps))
    return output
