"""Beam search speed, compared with `generate` of transformers and with CTranslate2, using the same weights.

    python -m benchmarks.decode RUN --sentences FILE [--batch-size 64]        # weights and vocabulary of a run
    python -m benchmarks.decode --random SIZE [--batch-size 512]              # random weights

All programs use beam size 4 and the batches of `translate`, which are sorted by length. The time is from token ids to
token ids. Random weights hardly ever produce EOS, so every output is truncated to one token more than its source, for
all programs alike. The random sentences have lengths like those of newstest2014.
"""

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import jax
import numpy as np

from benchmarks.news import news
from benchmarks.timing import Program, alone, compiling, record, report_skipped, seconds_each
from benchmarks.train import SIZES
from data.tokenizer import Tokenizer
from experiments.exchange.marian import row_names, settings_of, to_marian
from experiments.presets.wmt14 import EN_DE_BASE
from experiments.programs import batches, compiled_search, pad
from experiments.translator import Translator
from transformer.config import BOS, EOS, PAD, UNK, DecodeConfig, Experiment, ModelConfig
from transformer.parameters import Params, named
from transformer.train import graph_of, init_params

SENTENCES = 3003
Ids = list[list[int]]
Pieces = tuple[list[str], list[str]]
"""Names of the rows of the embeddings of source and target."""


class Outputs:
    """The outputs of a program's latest run, indexed by sentence."""

    def __init__(self, sources: Ids, extra_length: int) -> None:
        self.limits = [len(source) + extra_length for source in sources]
        self.ids: Ids = [[] for _ in sources]

    def tokens(self) -> int:
        """Total number of tokens, EOS included."""
        return sum(map(len, self.ids))

    def put(self, number: int, ids: Any) -> None:
        """Stores an output, truncated after EOS or at the sentence's length limit (peers have one per batch)."""
        kept = [int(token) for token in ids if token != PAD][: self.limits[number]]
        self.ids[number] = kept[: kept.index(EOS) + 1] if EOS in kept else kept


def our_search(params: Params, model: ModelConfig, decode: DecodeConfig, ids: Ids) -> tuple[Program, Outputs]:
    """The search of `translate`, without tokenization."""
    outputs = Outputs(ids, decode.extra_length)
    search = compiled_search(graph_of(model), decode, 1)
    on_device = jax.device_put(params)

    def run() -> None:
        found = [
            (rows, search(on_device, pad(ids, rows, width, height)))
            for rows, width, height in batches(list(range(len(ids))), ids, decode.batch_size)
        ]
        for rows, hypotheses in found:
            for number, tokens in zip(rows, jax.device_get(hypotheses.tokens)[:, 0], strict=False):
                outputs.put(number, tokens)

    return run, outputs


def marian(params: Params, config: ModelConfig) -> Any:
    """Marian of transformers with our weights. UserError for a model that it cannot be."""
    import torch
    from transformers import MarianConfig, MarianMTModel

    settings = settings_of(config) | {"max_position_embeddings": 1024, "dropout": 0.0}
    model = MarianMTModel(MarianConfig(**settings))
    weights = to_marian(config, {name: np.asarray(leaf) for name, leaf in named(params).items()})
    keys = model.load_state_dict({name: torch.tensor(array) for name, array in weights.items()}, strict=False)
    shared = {"model.shared.weight"} if config.tied != "all" else set()
    positions = {f"model.{stack}.embed_positions.weight" for stack in ("encoder", "decoder")}  # they are made, not read
    assert not keys.unexpected_keys and set(keys.missing_keys) <= shared | positions, keys
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = config.norm_epsilon
    model.tie_weights()
    return model.eval()


def generate(model: Any, config: ModelConfig, decode: DecodeConfig, ids: Ids) -> tuple[Program, Outputs]:
    """Beam search of transformers, which stops once every sentence has as many finished hypotheses as beams."""
    import torch

    outputs = Outputs(ids, decode.extra_length)
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    model = model.to(device).to(torch.bfloat16 if config.dtype == "bfloat16" else torch.float32)

    @torch.inference_mode()
    def run() -> None:
        for rows, width, _ in batches(list(range(len(ids))), ids, decode.batch_size):
            source = torch.tensor(pad(ids, rows, width, len(rows)).astype(np.int64)).to(device)
            longest = max(len(ids[i]) for i in rows)
            found = model.generate(
                input_ids=source[:, :longest],
                attention_mask=(source != PAD)[:, :longest],
                num_beams=decode.beam,
                length_penalty=decode.alpha,
                max_new_tokens=longest + decode.extra_length,
                early_stopping=True,
                do_sample=False,
            )
            for number, tokens in zip(rows, found.cpu().numpy()[:, 1:], strict=True):
                outputs.put(number, tokens)

    return run, outputs


def ctranslate(model: Any, pieces: Pieces, decode: DecodeConfig, ids: Ids) -> tuple[Program, Outputs]:
    """CTranslate2 in float32 on the CPU, with one thread per core."""
    import ctranslate2
    from ctranslate2.converters.transformers import BartLoader

    # Not Marian's own loader, which starts decoding from a zero vector and drops the last piece, unlike the paper.
    model.config.normalize_before = model.config.normalize_embedding = False
    spec = BartLoader().get_model_spec(model)
    source, target = pieces
    spec.register_source_vocabulary(source)
    spec.register_target_vocabulary(target)
    spec.config.bos_token, spec.config.eos_token, spec.config.unk_token = (target[i] for i in (BOS, EOS, UNK))
    spec.config.decoder_start_token = target[BOS]
    spec.validate()
    spec.optimize(quantization=None)
    folder = tempfile.TemporaryDirectory()
    spec.save(folder.name)
    outputs = Outputs(ids, decode.extra_length)
    translator = ctranslate2.Translator(folder.name, device="cpu", compute_type="float32", intra_threads=0)
    index = {piece: i for i, piece in enumerate(target)}

    def run(_: Any = folder) -> None:
        for rows, _, _ in batches(list(range(len(ids))), ids, decode.batch_size):
            most = max(len(ids[i]) for i in rows) + decode.extra_length
            found = translator.translate_batch(
                [[source[token] for token in ids[i]] for i in rows],
                beam_size=decode.beam,
                length_penalty=decode.alpha,
                max_decoding_length=most,
                max_input_length=0,
            )
            for number, result in zip(rows, found, strict=True):
                tokens = [index[piece] for piece in result.hypotheses[0]]
                outputs.put(number, [*tokens, EOS] if len(tokens) < most else tokens)

    return run, outputs


def peers(
    params: Params, model: ModelConfig, decode: DecodeConfig, ids: Ids, pieces: Pieces
) -> dict[str, tuple[Program, Outputs]]:
    """The peers that can run on this machine; prints the names of the others."""
    makers: dict[str, Callable[[], tuple[Program, Outputs]]] = {
        "transformers": lambda: generate(marian(params, model), model, decode, ids)
    }
    if jax.default_backend() == "cpu":  # the comparison is in float32 on a CPU
        makers["ctranslate2"] = lambda: ctranslate(marian(params, model), pieces, decode, ids)
    found = {}
    for name, make in makers.items():
        try:
            program, outputs = make()
            program()
            found[name] = program, outputs
        except Exception as error:
            report_skipped(name, error)
    return found


def peer_settings(programs: Any) -> dict[str, Any]:
    """Versions and thread counts of the peers."""
    settings: dict[str, Any] = {}
    if "transformers" in programs:
        import torch

        settings |= {"transformers": version("transformers"), "torch": torch.__version__}
        settings |= {"torch threads": torch.get_num_threads(), "attention": "transformers' default"}
    if "ctranslate2" in programs:
        settings |= {
            "ctranslate2": version("ctranslate2"),
            "ctranslate2 threads": "one for each core (intra_threads=0)",
        }
    return settings


def subject(options: argparse.Namespace) -> tuple[Params, Experiment, Ids, Pieces]:
    """Returns parameters, settings, encoded sentences and the pieces of both sides."""
    if options.random:
        experiment = replace(SIZES[options.random], decode=replace(EN_DE_BASE.decode, extra_length=1))
        if jax.default_backend() == "cpu":
            experiment = replace(experiment, model=replace(experiment.model, dtype="float32"))
        ids = [
            source.tolist() for source, _ in map(news(options.count, experiment.data).__getitem__, range(options.count))
        ]
        pieces = ["<pad>", "<s>", "</s>", "<unk>", *map(str, range(4, experiment.model.vocab_size))]
        return init_params(experiment.model, 0), experiment, ids, (pieces, pieces)
    translator = Translator.load(options.run)
    lines = options.sentences.read_text(encoding="utf-8").splitlines()[: options.count]
    tokenizer: Tokenizer = translator.tokenizer
    ids = tokenizer.source.encode([line for line in lines if line.strip()])
    model = translator.experiment.model
    sides = row_names(tokenizer.source, model.source_rows), row_names(tokenizer, model.vocab_size)
    return translator.params, translator.experiment, ids, sides


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decode")
    parser.add_argument("run", nargs="?", help="a run with a post-norm model (or use --random)")
    parser.add_argument("--random", choices=SIZES, help="random weights of this size")
    parser.add_argument("--sentences", type=Path, help="text to translate, one sentence per line")
    parser.add_argument("--count", type=int, default=SENTENCES, help="maximum number of sentences")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--alone", action="store_true", help="do not run the peers")
    options = parser.parse_args()
    if bool(options.run) == bool(options.random) or (options.run and not options.sentences):
        parser.error("give either RUN and --sentences FILE, or --random SIZE")

    params, experiment, ids, pieces = subject(options)
    model, decode = experiment.model, replace(experiment.decode, batch_size=options.batch_size)
    programs = {"ours": our_search(params, model, decode, ids)}
    with compiling():
        programs["ours"][0]()
        if not options.alone:
            programs |= peers(params, model, decode, ids, pieces)
    with alone():
        times = seconds_each({name: program for name, (program, _) in programs.items()}, options.rounds, warm_up=1)
    seconds = {name: median(each) for name, each in times.items()}
    made = {name: outputs for name, (_, outputs) in programs.items()}
    speed = {name: made[name].tokens() / seconds[name] for name in made}
    same = {
        name: np.mean([a == b for a, b in zip(made["ours"].ids, out.ids, strict=True)]) for name, out in made.items()
    }
    record(
        f"decode-{options.random or experiment.name}",
        {
            "model": asdict(model),
            "decode": asdict(decode),
            "sentences": len(ids),
            "source_tokens": sum(map(len, ids)),
            "seconds": seconds,
            "target_tokens": {name: out.tokens() for name, out in made.items()},
            "target_tokens_per_second": speed,
            "sentences_equal_to_ours": same,
            "settings": {"rounds": options.rounds, **peer_settings(made)},
        },
    )


if __name__ == "__main__":
    main()
