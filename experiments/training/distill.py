"""Sequence-level knowledge distillation (Kim and Rush, 2016): a training text whose targets are a model's outputs.

A model's translations of a text are more alike than those of people, and easier to learn. Small models gain from this,
and those that predict all tokens at once need it (transformer/variants/mask_predict.py).
"""

import json
import shlex
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from data.corpora import find_corpus, languages_of
from data.corpora.corpus import SPLITS
from data.dataset import SIDES, default_data_dir, os_errors_explained
from data.text import is_blank
from experiments.streams import part_of, written
from experiments.translator import Translator
from transformer.config import DecodeConfig, UserError, counted

CHUNK = 1024
"""Lines that are translated before they are written."""

ANOTHER_TEXT = "has another text than this run was trained on"


def distill(translator: Translator, folder: Path, log: Callable[[str], None]) -> str:
    """Writes train, dev and test of a run's corpus into a folder, as train.source, train.target and so on.

    The targets of train are the run's translations. A line that is too long to be translated has a blank one, which
    training leaves out. Called again, it goes on after the last line that was written. teacher.json says whose
    translations they are, so that no text is begun by one model and finished by another.

    Returns:
        The flags that train on this text.

    Raises:
        UserError: the corpus cannot be read, the run does not translate, or the folder has another text or the
            translations of another model.
    """
    translator.check_searched("distillation")
    data = translator.experiment.data
    if translator.tokenizer.of_trees or data.context > 1:
        raise UserError("distillation is for translations of single sentences")
    corpus, downloads = find_corpus(data), default_data_dir() / "downloads"
    with os_errors_explained(folder, "write translations to"):
        folder.mkdir(parents=True, exist_ok=True)
        corpus.sources(downloads, log)
        for split in SPLITS:
            count = data.train_pairs if split == "train" else None
            pairs = [pair for pair in corpus.pairs(split, count, downloads, log) if not is_blank(pair)]
            if not pairs:
                raise UserError(f"{split} has no sentence pair any more: the text of the run has changed")
            text = dict(zip(SIDES, map(list, zip(*pairs, strict=True)), strict=True))
            put(folder / f"{split}.source", text["source"], ANOTHER_TEXT)
            if split == "train":
                put(folder / "teacher.json", [teacher(translator)], "is of another model, or of other flags")
                translate_into(folder / "train.target", text["source"], translator, log)
            else:
                put(folder / f"{split}.target", text["target"], ANOTHER_TEXT)
    languages = languages_of(data)
    files = [
        f"--data.{split}-{flag} {shlex.quote(str(folder / f'{split}.{side}'))}"
        for split in SPLITS
        for flag, side in zip(("src", "tgt"), SIDES, strict=True)
    ]
    return " ".join(files + ([f"--data.languages {'-'.join(languages)}"] if languages else []))


def teacher(translator: Translator) -> str:
    """What the translations depend on, as a line of JSON: the experiment, the checkpoints, how they are decoded."""
    decode = asdict(replace(translator.experiment.decode, batch_size=DecodeConfig.batch_size))
    facts = {"steps": translator.steps, "decode": decode, "max_tokens": translator.max_tokens}
    return json.dumps(facts | {name: translator.meta[name] for name in ("experiment", "vocabulary")})


def put(path: Path, lines: list[str], another: str) -> None:
    """Writes a text. UserError if the file has `another` one."""
    text = "".join(f"{line}\n" for line in lines)
    if not path.exists():
        with written(path) as file:
            file.write(text)
    elif path.read_bytes() != text.encode():
        raise UserError(f"{path} {another}: give another folder with --output")


def translate_into(path: Path, sources: list[str], translator: Translator, log: Callable[[str], None]) -> None:
    """Writes the translations of sources to a file that appears once it is complete."""
    if path.exists():
        return log(f"{path} is complete")
    part = part_of(path)
    done = complete_lines(part)
    with part.open("ab") as file:
        file.truncate(sum(len(line) + 1 for line in done))
        for start in range(len(done), len(sources), CHUNK):
            chunk = sources[start : start + CHUNK]
            file.writelines(f"{line}\n".encode() for line in translator.translate(chunk, bad_lines="skip"))
            file.flush()
            log(f"{start + len(chunk):,} of {counted(len(sources), 'line')}")
    part.replace(path)


def complete_lines(part: Path) -> list[bytes]:
    """The lines that were written before, without one that was cut off."""
    return part.read_bytes().split(b"\n")[:-1] if part.exists() else []
