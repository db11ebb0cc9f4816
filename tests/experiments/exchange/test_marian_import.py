"""`import` of folders of MarianMTModel: the run computes the same, and `export` gives the same arrays back."""

import json
import math
import re

import numpy as np
import pytest

from data import grammar
from data.tokenizer import END_PIECE
from experiments.cli.main import main
from experiments.exchange import marian_import
from experiments.exchange.check import compare
from experiments.exchange.exchange import import_folder
from experiments.exchange.imported import examples
from experiments.exchange.marian import write_marian
from experiments.exchange.marian_import import SIZES, read_marian
from experiments.translator import Translator
from tests.experiments.exchange.marian_folders import write_marian_folder
from transformer.config import BOS, EOS, PAD, UNK, UserError
from transformer.parameters import named

pytest.importorskip("torch")
pytest.importorskip("transformers")

SENTENCES = ["A queen may arrive.", "Every beautiful man calls every baker up, although he waited."]

VARIANTS = {
    "separate": {"separate": True, "activation_function": "gelu", "scale_embedding": False},
    "untied": {"separate": True, "tie_word_embeddings": False, "decoder_layers": 2, "activation_function": "relu"},
    "shared, but not the output": {"tie_word_embeddings": False, "decoder_start_token_id": 0},
    "one vocabulary, two matrices": {"share_encoder_decoder_embeddings": False, "dropped": 12, "extra_rows": 5},
    "multilingual": {"codes": (">>deu<<", ">>fra<<")},
}


def quiet(line):
    pass


@pytest.mark.slow
@pytest.mark.parametrize(
    "variant", [one if one == "separate" else pytest.param(one, marks=pytest.mark.slow) for one in VARIANTS]
)
def test_both_directions(variant, tmp_path):
    lines: list[str] = []
    settings = VARIANTS[variant]
    theirs = write_marian_folder(tmp_path / "theirs", **settings)
    model, peer = read_marian(tmp_path / "theirs", lines.append)
    code = "".join(settings.get("codes", ())[:1])
    agreement = compare(model, peer, [f"{code} {line}".strip() for line in SENTENCES], lines.append)
    assert agreement.sentences == agreement.equal == 2 and agreement.largest < 1e-5
    assert lines[-1].startswith("2 of 2 outputs equal in transformers; largest difference of log-probabilities per")

    (tmp_path / "back").mkdir()
    write_marian(model, tmp_path / "back")
    same_arrays(theirs.state_dict(), tmp_path / "theirs", tmp_path / "back")
    again, _ = read_marian(tmp_path / "back", quiet)
    assert again.experiment.model == model.experiment.model
    for name, array in named(model.params).items():
        np.testing.assert_array_equal(named(again.params)[name], array, err_msg=name)


def same_arrays(state, theirs, back):
    """The exported arrays are those that were imported, with the rows in the order of the new vocab.json."""
    from transformers import MarianMTModel

    found = MarianMTModel.from_pretrained(back).state_dict()
    ids = {}
    for side, name in (("source", "vocab.json"), ("target", "target_vocab.json")):
        old, new = (
            json.loads((folder / name if (folder / name).exists() else folder / "vocab.json").read_text())
            for folder in (theirs, back)
        )
        assert old.keys() <= new.keys()
        ids[side] = [old[piece] for piece in old], [new[piece] for piece in old]
    for name in state.keys() - {"model.shared.weight"}:  # a file without it has its copies
        if "embed_positions" in name:
            continue
        array, mine = state[name].numpy(), found[name].numpy()
        if "embed_tokens" in name or name == "lm_head.weight":
            before, after = ids["source" if "encoder" in name else "target"]
            array, mine = array[before], mine[after]
        elif name == "final_logits_bias":  # that of the padding token, the last one, is without effect
            array, mine = (each[0, order[:-1]] for each, order in zip((array, mine), ids["target"], strict=True))
        np.testing.assert_array_equal(mine, array, err_msg=name)


@pytest.mark.slow
def test_the_command_makes_a_run_that_translates_and_goes_back(tmp_path, capsys):
    write_marian_folder(tmp_path / "theirs")
    (tmp_path / "text").write_text("".join(line + "\n\n" for line in SENTENCES))
    flags = ["--sentences", str(tmp_path / "text"), "--output"]
    main(["import", str(tmp_path / "theirs"), *flags, str(tmp_path / "ours")])
    main(["export", str(tmp_path / "ours"), "--format", "marian", *flags, str(tmp_path / "back")])
    main(["inspect", str(tmp_path / "ours")])
    printed = capsys.readouterr().out
    assert printed.count("2 of 2 outputs equal in transformers") == 2
    assert "unknown: the model was imported from theirs" in printed

    run = Translator.load(tmp_path / "ours", log=quiet)
    assert (run.steps, run.experiment.decode.beam, run.experiment.data.languages) == ([0], 3, "en-de")
    assert run.experiment.model.norm_epsilon == 1e-5 and run.experiment.model.tied == "all"
    read, _ = read_marian(tmp_path / "theirs", quiet)
    for name, array in named(read.params).items():
        np.testing.assert_array_equal(named(run.params)[name], array)


@pytest.mark.slow
def test_training_goes_on_from_an_imported_run(text, data_flags, tmp_path, capsys):
    write_marian_folder(tmp_path / "theirs", separate=True)
    ours = import_folder(tmp_path / "theirs", tmp_path / "ours", quiet, SENTENCES[:1])
    flags = ["--init", str(ours), "--data.vocabulary", str(ours), "--data.max-unknown", "1"]
    flags += ["--train.steps", "1", "--optimizer.scale", "1e-30", "--data.batch-tokens", "1024"]
    main(["train", str(ours), "--workdir", str(tmp_path / "new"), *flags, *data_flags(text)])
    before, after = (Translator.load(tmp_path / name, "last", quiet) for name in ("ours", "new"))
    assert after.tokenizer.sha256 == before.tokenizer.sha256
    for name, array in named(before.params).items():
        np.testing.assert_allclose(named(after.params)[name], array, rtol=1e-6, atol=1e-30)
    main(["evaluate", str(ours), "--data.max-unknown", "1", *data_flags(text)[-4:]])
    assert "BLEU" in capsys.readouterr().out


@pytest.fixture(scope="module")
def opus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("opus")
    write_marian_folder(folder, dropped=12, codes=(">>deu<<", ">>fra<<"))
    return folder, *read_marian(folder, quiet)


def test_the_special_ids_are_ours_and_decoding_starts_from_the_padding_row(opus):
    folder, model, _ = opus
    ids, table = json.loads((folder / "vocab.json").read_text()), model.params["embedding"]
    pieces = model.tokenizer.pieces(range(model.tokenizer.size))
    assert pieces[: UNK + 1] == ["<pad>", "<s>", "</s>", "<unk>"]
    assert set(pieces) - set(ids) == {"<s>"} and set(ids) <= set(pieces)
    np.testing.assert_array_equal(table[BOS], table[PAD])
    assert np.abs(table[EOS]).max() > 0
    assert not {PAD, BOS} & {i for line in model.n_best(SENTENCES, 1) for i in model.tokenizer.ids(line[0].pieces)}


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_texts_are_read_as_there(kind, tmp_path):
    """Pieces without an id, characters without a piece, language codes, and rules of normalization."""
    write_marian_folder(tmp_path, dropped=12, codes=(">>deu<<", ">>fra<<"), kind=kind)
    model, peer = read_marian(tmp_path, quiet)
    assert model.experiment.data.vocab_type == kind
    texts = [
        *examples(model, 50),
        "Every beautiful man calls every baker up, although he waited.",
        ">>deu<< A queen",
        ">>fra<<A  queen ",
        "A >>deu<< queen",
        ">>xyz<< A queen",
        "Ａ ｑｕｅｅｎ 🙂 may",
        "ﬁ ½ 你好 ...",
        "A",
    ]
    read = model.tokenizer.source.encode(texts)
    assert read == peer.encode(texts)
    assert sum(UNK in ids for ids in read) >= 3
    assert read[-7][0] != read[-6][0] != UNK  # two language codes

    targets = [text for _, text in grammar.pairs("dev", 50)] + texts
    ids = [ids for text in targets for ids in peer.tokenizer(text_target=[text])["input_ids"]]
    assert model.tokenizer.encode(targets) == [[peer.back[1][i] for i in line] for line in ids]


def test_pieces_without_an_id_are_counted(tmp_path):
    lines: list[str] = []
    write_marian_folder(tmp_path, dropped=12)
    source = read_marian(tmp_path, lines.append)[0].tokenizer.source
    (said,) = [line for line in lines if line.startswith("source.spm: ")]
    count = int(re.match(r"source.spm: (\d+) pieces that the vocabulary does not have", said)[1])
    assert 1 <= count <= 12  # target.spm has some of them
    with pytest.raises(UserError, match="is not a piece of the vocabulary"):
        source.ids([END_PIECE])
    assert source.decode([[source.size]]) == [source.decode([[UNK]])[0]]


def test_the_pieces_of_the_other_side_decode(opus):
    """The vocabulary has the pieces of both sides, and a translation may have any."""
    _, model, peer = opus
    every = [[i] for i in range(UNK + 1, model.tokenizer.size)]
    mine = model.tokenizer.decode(every)
    theirs = [peer.tokenizer.decode([int(peer.ids.target[i])], skip_special_tokens=True) for [i] in every]
    assert [text.strip() for text in mine] == [text.strip() for text in theirs]


CONFIG = {
    "normalize_before": True,
    "normalize_embedding": True,
    "add_final_layer_norm": True,
    "static_position_embeddings": False,
    "encoder_layerdrop": 0.1,
    "decoder_layerdrop": 0.1,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "activation_function": "tanh",
    "d_model": 15,
    "model_type": "bart",
    "forced_eos_token_id": 3,
    "decoder_start_token_id": 5000,
    "eos_token_id": 4,
}


@pytest.mark.parametrize("name", CONFIG)
def test_a_setting_that_this_code_has_not_is_refused_by_name(name, opus, tmp_path):
    change(opus[0], tmp_path, "config.json", {name: CONFIG[name]})
    refused(tmp_path, name)


@pytest.mark.parametrize("value", [-1, 0, True, 1.5, math.nan, 10**9, 10**30, "x", [1]], ids=str)
@pytest.mark.parametrize("name", [*SIZES, "d_model"])
def test_a_size_that_no_model_has_is_refused_before_anything_is_made(name, value, opus, tmp_path, monkeypatch):
    monkeypatch.setattr(marian_import, "load", lambda folder: pytest.fail("it would be made"))
    both = dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), value) if "ffn" in name else {name: value}
    change(opus[0], tmp_path, "config.json", both)
    refused(tmp_path, "ffn_dim" if "ffn" in name else name)


@pytest.mark.parametrize("changes", [{"encoder_layers": 10**6}, {"decoder_layers": 10**6}, {"d_model": 10**7}], ids=str)
def test_a_model_that_is_larger_than_its_weights_is_refused_before_it_is_made(changes, opus, tmp_path, monkeypatch):
    monkeypatch.setattr(marian_import, "load", lambda folder: pytest.fail("it would be made"))
    change(opus[0], tmp_path, "config.json", changes)
    refused(tmp_path, r"parameters, but the weights have only [\d,]+ bytes")


GENERATION = {"repetition_penalty": 1.2, "forced_bos_token_id": 5, "suppress_tokens": [7], "bad_words_ids": [[1], [5]]}


@pytest.mark.parametrize("name", GENERATION)
def test_a_setting_of_generation_is_refused_by_name(name, opus, tmp_path):
    change(opus[0], tmp_path, "generation_config.json", {name: GENERATION[name]})
    refused(tmp_path, name)


def change(folder, copy, name, settings):
    copy.mkdir(exist_ok=True)
    for file in folder.iterdir():
        if file.name != name:
            (copy / file.name).symlink_to(file)
    (copy / name).write_text(json.dumps(json.loads((folder / name).read_text()) | settings))


def refused(folder, message):
    output = folder.with_name(f"{folder.name}-new")
    with pytest.raises(UserError, match=message) as error:
        import_folder(folder, output, quiet, SENTENCES)
    assert "\n" not in str(error.value) and not output.exists()


DAMAGE = {
    "vocab.json": ('{"<unk>": 1, "</s>": 0}', "vocab.json does not have the pad_token '<pad>'"),
    "source.spm": ("no model", "cannot be loaded by transformers|not a sentencepiece model"),
    "model.safetensors": ("", "cannot be loaded by transformers"),
    "generation_config.json": ('{"num_beams": 3, "repetition_pen', "generation_config.json cannot be read"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_refused(name, opus, tmp_path):
    content, message = DAMAGE[name]
    change(opus[0], tmp_path, "config.json", {})
    (tmp_path / name).unlink()
    (tmp_path / name).write_text(content)
    refused(tmp_path, message)


@pytest.mark.parametrize("name", ["generation_config.json", "tokenizer_config.json"])
def test_a_broken_link_is_not_taken_for_a_file_that_is_not_there(name, opus, tmp_path):
    change(opus[0], tmp_path, "config.json", {})
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to(tmp_path / "nothing")
    refused(tmp_path, f"{name} cannot be read")


def test_a_piece_that_is_no_text_is_refused(opus, tmp_path):
    change(opus[0], tmp_path, "vocab.json", {})
    path = tmp_path / "vocab.json"
    path.write_text(path.read_text().replace('{"', '{"\\ud800', 1))
    refused(tmp_path, "not valid text: surrogates")


def test_only_files_are_hashed(opus, tmp_path):
    change(opus[0], tmp_path, "config.json", {})
    (tmp_path / "a.bin").mkdir()
    (tmp_path / "b.bin").symlink_to(tmp_path / "nothing")
    assert list(read_marian(tmp_path, quiet)[0].meta["lineage"][0]["sha256"]) == ["model.safetensors"]


def test_a_pickle_with_code_is_not_executed(opus, tmp_path):
    class Evil:
        def __reduce__(self):
            return (tmp_path / "executed").touch, ()

    import pickle

    change(opus[0], tmp_path / "theirs", "config.json", {})
    (tmp_path / "theirs" / "model.safetensors").unlink()
    (tmp_path / "theirs" / "pytorch_model.bin").write_bytes(
        pickle.dumps(Evil(), protocol=2) + bytes(1 << 20)  # as large as weights would be
    )
    refused(tmp_path / "theirs", "cannot be loaded by transformers")
    assert not (tmp_path / "executed").exists()


def test_weights_in_a_pickle_are_read(opus, tmp_path):
    import torch
    from transformers import MarianMTModel

    folder, model, _ = opus
    change(folder, tmp_path, "config.json", {})
    (tmp_path / "model.safetensors").unlink()
    torch.save(MarianMTModel.from_pretrained(folder).state_dict(), tmp_path / "pytorch_model.bin")
    again, _ = read_marian(tmp_path, quiet)
    np.testing.assert_array_equal(again.params["embedding"], model.params["embedding"])


def test_another_function_fails_the_check_and_leaves_nothing(opus, tmp_path, monkeypatch):
    monkeypatch.setattr(marian_import, "EPSILON", 0.1)
    with pytest.raises(UserError, match=r"transformers gives other scores, by up to .*, above 0.0001"):
        import_folder(opus[0], tmp_path / "new", quiet, SENTENCES[:1])
    assert list(tmp_path.iterdir()) == []
