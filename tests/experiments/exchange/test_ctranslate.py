"""`export --format ctranslate2`: the model that CTranslate2 loads computes the same."""

import re
from dataclasses import replace

import pytest

from experiments.cli.main import main
from experiments.exchange import ctranslate
from experiments.exchange.exchange import export_run
from experiments.translator import Translator
from transformer.config import DecodeConfig, UserError

pytest.importorskip("ctranslate2")

SENTENCES = ["a dog runs", "two men are sitting on a bench", "the woman reads"]

VARIANTS = {
    "paper": {"norm_epsilon": 1e-3, "dtype": "bfloat16"},
    "pre-norm": {"norm": "pre", "activation": "gelu", "biases": False, "tied": "none", "scale_embeddings": False},
    "learned": {
        **{"positions": "learned", "max_positions": 90, "activation": "swish", "tied": "target", "output_bias": True},
        **{"num_layers": 2, "decoder_layers": 4, "shared_layers": 2, "source_vocab_size": 230},
    },
}


def quiet(line):
    pass


def agreement(line):
    """Numbers of equal outputs and of sentences, and the largest difference, of the line that the check prints."""
    pattern = r"(\d+) of (\d+) outputs equal in CTranslate2; largest difference of log-probabilities per token (.*)"
    equal, count, largest = re.fullmatch(pattern, line).groups()
    return int(equal), int(count), float(largest)


@pytest.mark.parametrize(
    "variant", [one if one == "pre-norm" else pytest.param(one, marks=pytest.mark.slow) for one in VARIANTS]
)
def test_ctranslate2_computes_the_same(variant, random, tmp_path):
    lines = []
    export_run(random(**VARIANTS[variant]), tmp_path / "new", lines.append, "ctranslate2", SENTENCES)
    equal, count, largest = agreement(lines[-1])
    assert equal == count == 3 and largest < 1e-5


@pytest.mark.parametrize("quantization", ["int8", "int16"])
def test_quantized_weights_differ_a_little(quantization, run, tmp_path):
    lines, model = [], Translator.load(run.path, "last", quiet)
    for kind in ("float32", quantization):
        export_run(model, tmp_path / kind, lines.append, "ctranslate2", SENTENCES, kind)
    size, whole = ((tmp_path / kind / "model.bin").stat().st_size for kind in (quantization, "float32"))
    assert size < {"int8": 0.7, "int16": 0.85}[quantization] * whole  # position vectors stay in float32
    exact, rounded = (agreement(line)[2] for line in lines)
    assert exact < 1e-5 < rounded < ctranslate.ACCEPTED[quantization]


def test_the_folder_is_used_as_the_guide_says(random, tmp_path):
    import ctranslate2
    import sentencepiece

    model = random()
    export_run(model, tmp_path / "new", quiet, "ctranslate2", SENTENCES)
    source, target = (
        sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "new" / f"{side}.spm"))
        for side in ("source", "target")
    )
    engine = ctranslate2.Translator(str(tmp_path / "new"), device="cpu")
    (found,) = engine.translate_batch([source.encode(SENTENCES[0], out_type=str)], beam_size=1, max_decoding_length=9)
    greedy = replace(model.experiment, decode=DecodeConfig(beam=1, extra_length=20))
    expected = Translator(model.params, greedy, model.tokenizer, quiet).translate(SENTENCES[:1])
    assert expected[0].startswith(target.decode(found.hypotheses[0])) and found.hypotheses[0]


def test_another_function_is_noticed_and_nothing_is_left(random, tmp_path, monkeypatch):
    monkeypatch.setattr(ctranslate, "NEVER", 0.0)  # <pad> and <s> have a probability
    with pytest.raises(UserError, match="CTranslate2 gives other scores"):
        export_run(random(), tmp_path / "new", quiet, "ctranslate2", SENTENCES[:1])
    assert list(tmp_path.iterdir()) == []


REFUSED = {
    "d_k = 8, model.d_v = 8": {"d_k": 4, "d_v": 4},
    "d_v = 8": {"d_v": 4},
    "architecture = encoder-decoder": {"architecture": "recurrent"},
}


@pytest.mark.parametrize("needed", REFUSED)
def test_a_model_that_the_format_has_not_is_refused(needed, random, tmp_path):
    with pytest.raises(UserError, match=needed):
        export_run(random(**REFUSED[needed]), tmp_path / "new", quiet, "ctranslate2")
    assert list(tmp_path.iterdir()) == []


def test_a_sentence_longer_than_the_learned_positions_is_refused(random, tmp_path):
    short = random(positions="learned", max_positions=20)
    with pytest.raises(UserError, match="too long for the 20 positions of the CTranslate2 format"):
        export_run(short, tmp_path / "new", quiet, "ctranslate2", [" ".join(SENTENCES)])


def test_quantization_is_of_this_format_only(run, tmp_path):
    with pytest.raises(SystemExit):
        main(["export", str(run.path), "--quantization", "int8", "--output", str(tmp_path / "new")])
