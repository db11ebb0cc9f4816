"""`import` of folders of fairseq and of JoeyNMT: the run computes the same, and what it cannot is refused."""

import pickle
import re
import shutil
from argparse import Namespace
from types import SimpleNamespace

import numpy as np
import pytest

from experiments.cli.main import main
from experiments.exchange import fairseq
from experiments.exchange.check import compare
from experiments.exchange.exchange import import_folder
from experiments.exchange.fairseq import read_fairseq
from experiments.exchange.imported import examples
from experiments.exchange.joeynmt import read_joeynmt
from experiments.translator import Translator
from tests.experiments.exchange.torch_folders import (
    F,
    fairseq_logits,
    joey_logits,
    write_fairseq_folder,
    write_joey_folder,
)
from transformer.config import BOS, EOS, UNK, DecodeConfig, UserError
from transformer.parameters import named

torch = pytest.importorskip("torch")

FAIRSEQ = {
    "shared": {"dropped": 9},
    "separate": {"separate": True, "encoder_normalize_before": True, "decoder_normalize_before": True},
    "untied": {"separate": True, "share_decoder_input_output_embed": False, "decoder_layers": 1, "old": True},
    "gelu": {"activation_fn": "gelu", "no_scale_embedding": True, "share_all_embeddings": False},
}
JOEY = {
    "shared": {"dropped": 9},
    "pre": {"layer_norm": "pre", "separate": True, "decoder_layers": 1, "activation": "gelu"},
    "untied": {"tied_softmax": False, "scale": False, "activation": "swish"},
    "three matrices": {"tied_softmax": False, "tied_embeddings": False},
}
SENTENCES = ["A queen may arrive.", "The Ω waited."]


def quiet(line):
    pass


def same_function(model, peer, logits, symbols):
    """The model here computes the same as that of the check, and this as another implementation, from their ids."""
    assert compare(model, peer, SENTENCES, quiet).equal == len(SENTENCES)
    back, end = peer.ids.back(0), peer.ids.target[EOS]

    def checked(source, before):
        return peer.logits(peer.memory([back[i] for i in source]), before)

    def other(source, before):
        found = logits(source, before)
        found[:, peer.ids.never] = -float("inf")
        return found

    alike(checked, other, symbols)
    assert back[end] == EOS and peer.ids.target[BOS] == (end if peer.name == "fairseq" else end - 1)


def alike(logits, program, symbols):
    """Two functions give the same logits for random ids of a source and a target."""
    rng = np.random.default_rng(0)
    for length in (1, 7, 30):
        source, before = (rng.integers(4, len(each), length).tolist() for each in symbols)
        np.testing.assert_allclose(logits(source, before), program(source, before), atol=1e-5)


def slow_but(first, variants):
    return [one if one == first else pytest.param(one, marks=pytest.mark.slow) for one in variants]


@pytest.mark.slow
@pytest.mark.parametrize("variant", slow_but("shared", FAIRSEQ))
def test_a_model_of_fairseq_computes_the_same(variant, tmp_path):
    args, state, symbols = write_fairseq_folder(tmp_path, **FAIRSEQ[variant])
    same_function(*read_fairseq(tmp_path, quiet), fairseq_logits(args, state), symbols)


@pytest.mark.slow
@pytest.mark.parametrize("variant", slow_but("pre", JOEY))
def test_a_model_of_joeynmt_computes_the_same(variant, tmp_path):
    config, state, symbols = write_joey_folder(tmp_path, **JOEY[variant])
    same_function(*read_joeynmt(tmp_path, quiet), joey_logits(config, state), symbols)


@pytest.mark.parametrize("variant", FAIRSEQ)
def test_fairseq_itself_has_these_parameters_and_this_function(variant, tmp_path):
    models = pytest.importorskip("fairseq.models.transformer")
    dictionary = pytest.importorskip("fairseq.data").Dictionary
    args, state, symbols = write_fairseq_folder(tmp_path, **FAIRSEQ[variant])
    sides = [dictionary.load(str(tmp_path / f"dict.{language}.txt")) for language in ("en", "de")]
    assert [side.symbols for side in sides] == symbols
    task = SimpleNamespace(source_dictionary=sides[0], target_dictionary=sides[1])
    model = models.TransformerModel.build_model(Namespace(**args), task).eval()
    model.load_state_dict({name: tensor.clone() for name, tensor in state.items()})
    for layer in model.encoder.layers:
        layer.load_to_BT = False  # a kernel that newer versions of torch have no more

    def program(source, before):
        with torch.no_grad():
            return model(torch.tensor([source]), torch.tensor([len(source)]), torch.tensor([before]))[0][0]

    alike(fairseq_logits(args, state), program, symbols)


@pytest.mark.parametrize("variant", JOEY)
def test_joeynmt_itself_has_these_parameters_and_this_function(variant, tmp_path):
    build, vocabulary = pytest.importorskip("joeynmt.model").build_model, pytest.importorskip("joeynmt.vocabulary")
    special = pytest.importorskip("joeynmt.config")._check_special_symbols({})
    config, state, symbols = write_joey_folder(tmp_path, **JOEY[variant])
    data = config["data"] | {"special_symbols": SimpleNamespace(**special)}
    sides = vocabulary.build_vocab(data, model_dir=tmp_path)
    assert [side._itos for side in sides] == symbols
    model = build(config["model"], *sides).eval()
    model.load_state_dict(state)

    def program(source, before):
        given = {"src": torch.tensor([source]), "src_length": torch.tensor([len(source)]), "src_mask": None}
        given["trg_input"], given["trg_mask"] = torch.tensor([before]), torch.ones(1, 1, len(before), dtype=torch.bool)
        with torch.no_grad():
            return model._encode_decode(**given)[0][0]

    alike(joey_logits(config, state), program, symbols)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """A folder of each program."""
    folder = tmp_path_factory.mktemp("theirs")
    write_fairseq_folder(folder / "fairseq")
    write_joey_folder(folder / "joeynmt", dropped=12, pieces={"kind": "bpe"})
    return folder


@pytest.fixture
def folders(theirs, tmp_path):
    """Copies, to change."""
    return shutil.copytree(theirs, tmp_path / "theirs", symlinks=True)


def change(path, act):
    """Rewrites a checkpoint."""
    content = torch.load(path, weights_only=False)
    act(content)
    torch.save(content, path)


def refused(folder, message):
    """The import fails with one line, and leaves nothing."""
    output = folder.with_name(f"{folder.name}-new")
    with pytest.raises(UserError, match=message) as error:
        import_folder(folder, output, quiet, SENTENCES[:1])
    assert "\n" not in str(error.value) and not output.exists()


@pytest.mark.slow
@pytest.mark.parametrize("program", ["fairseq", "joeynmt"])
def test_the_command_makes_a_run_that_translates(program, folders, tmp_path, capsys):
    (tmp_path / "text").write_text(SENTENCES[0] + "\n")
    main(["import", str(folders / program), "--sentences", str(tmp_path / "text"), "--output", str(tmp_path / "new")])
    printed = capsys.readouterr().out
    assert "1 of 1 output equal in" in printed
    run = Translator.load(tmp_path / "new", log=quiet)
    assert (run.steps, run.experiment.data.languages, run.experiment.data.corpus) == ([0], "en-de", "files")
    assert run.meta["lineage"][0]["format"] == program and run.meta["lineage"][0]["sha256"]
    read, _ = {"fairseq": read_fairseq, "joeynmt": read_joeynmt}[program](folders / program, quiet)
    for name, array in named(read.params).items():
        np.testing.assert_array_equal(named(run.params)[name], array)
    assert run.n_best(SENTENCES[:1], 1) == read.n_best(SENTENCES[:1], 1)


def test_a_search_is_that_of_joeynmt(theirs):
    decode = read_joeynmt(theirs / "joeynmt", quiet)[0].experiment.decode
    assert decode == DecodeConfig(beam=5, alpha=1.0, min_length=1)


def test_a_checkpoint_is_chosen_by_its_path(folders):
    """A folder with several, of which none is the best one, does not say which."""
    (folders / "joeynmt/best.ckpt").unlink()
    shutil.copy(folders / "joeynmt/300.ckpt", folders / "joeynmt/200.ckpt")
    (folders / "fairseq/checkpoint_best.pt").rename(folders / "fairseq/checkpoint1.pt")
    shutil.copy(folders / "fairseq/checkpoint1.pt", folders / "fairseq/checkpoint2.pt")
    refused(folders / "joeynmt", "has 200.ckpt and 300.ckpt, but no best.ckpt: import one of them by its path")
    refused(folders / "fairseq", "has checkpoint1.pt and checkpoint2.pt, but no checkpoint_best.pt")
    for read, path in ((read_joeynmt, "joeynmt/200.ckpt"), (read_fairseq, "fairseq/checkpoint2.pt")):
        assert list(read(folders / path, quiet)[0].meta["lineage"][0]["sha256"]) == [path.partition("/")[2]]


@pytest.mark.parametrize("program", ["fairseq", "joeynmt"])
@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_texts_are_read_and_spelled_as_there(program, kind, tmp_path):
    """Pieces that the vocabulary does not have: fairseq reads them as <unk>, JoeyNMT splits the text otherwise."""
    write, read = {
        "fairseq": (write_fairseq_folder, read_fairseq),
        "joeynmt": (write_joey_folder, read_joeynmt),
    }[program]
    write(tmp_path, dropped=25, pieces={"kind": kind})
    model, peer = read(tmp_path, quiet)
    texts = [*SENTENCES, *examples(model, 50), "a  a ", "<s> <pad> </s> <unk>", "▁"]
    found = model.tokenizer.source.encode(texts)
    assert found == peer.encode(texts) == model.tokenizer.encode(texts)  # both sides have one vocabulary
    assert any(UNK in ids for ids in found)
    pieces = [[i] for i in range(UNK + 1, model.tokenizer.size)]
    spelled = [peer.texts.spell([int(peer.ids.target[i])]) for [i] in pieces]
    assert [text.split() for text in model.tokenizer.decode(pieces)] == [text.split() for text in spelled]


def test_pieces_of_fairseq_are_never_split_and_those_of_joeynmt_are(tmp_path):
    for name, write in (("fairseq", write_fairseq_folder), ("joeynmt", write_joey_folder)):
        write(tmp_path / name, dropped=25, pieces={"kind": "bpe"})
    lines = [text for text in SENTENCES if "Ω" not in text]
    unknown = [
        sum(ids.count(UNK) for ids in read(tmp_path / name, quiet)[0].tokenizer.source.encode(lines))
        for name, read in (("fairseq", read_fairseq), ("joeynmt", read_joeynmt))
    ]
    assert unknown[0] > 0 == unknown[1]


SETTINGS = dict.fromkeys(fairseq.OFF, 1) | {
    "decoder_embed_dim": 32,
    "decoder_input_dim": 8,
    "decoder_output_dim": 8,
    "decoder_ffn_embed_dim": 48,
    "decoder_attention_heads": 2,
    "decoder_normalize_before": True,
    "encoder_layers": "many",
    "encoder_embed_dim": None,
    "activation_fn": "gelu_accurate",
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_of_fairseq_is_refused_by_name(name, folders):
    path = folders / "fairseq/checkpoint_best.pt"
    change(path, lambda content: vars(content["cfg"]["model"]).update({name: SETTINGS[name]}))
    refused(folders / "fairseq", rf"checkpoint_best.pt: .*{name}")


def test_settings_in_sections_are_found(folders):
    def nest(content):
        model = vars(content["cfg"]["model"])
        content["cfg"]["model"] = model | {"encoder": {"layers": 2, "learned_pos": True}}

    change(folders / "fairseq/checkpoint_best.pt", nest)
    refused(folders / "fairseq", "encoder_learned_pos = True")


def update(*path, **values):
    """Returns a function that changes settings of a section of a checkpoint of fairseq."""

    def act(content):
        section = content
        for name in path:
            section = section[name]
        section.update(values)

    return act


def drop(name):
    return lambda content: content["model"].pop(name)


def rename_to_lightconv(content):
    for name in list(content["model"]):
        content["model"][name.replace("self_attn.", "conv.")] = content["model"].pop(name)
    content["cfg"]["model"].arch = "lightconv_wmt_en_de"


def test_parameters_of_older_versions_have_newer_names(theirs):
    """One matrix for queries, keys and values, numbered norms, and no output matrix if it is that of the target."""
    state = torch.load(theirs / "fairseq/checkpoint_best.pt", weights_only=False)["model"]
    new = {name: tensor for name, tensor in state.items() if not re.fullmatch(fairseq.WITHOUT, name)}
    old = {name: tensor for name, tensor in new.items() if "layers" not in name and "output" not in name}
    for name, tensor in new.items():
        layer, _, part = name.rpartition("_attn.q_proj.")
        if layer:
            each = [new[f"{layer}_attn.{one}_proj.{part}"] for one in "qkv"]
            old[f"{layer}_attn.in_proj_{part}"] = torch.cat(each)
        elif found := re.fullmatch(r"(.*)\.(self_attn|encoder_attn|final)_layer_norm\.(\w+)", name):
            number = {"self_attn": 0, "encoder_attn": 1, "final": 1 if "encoder.layers" in name else 2}[found[2]]
            old[f"{found[1]}.layer_norms.{number}.{found[3]}"] = tensor
        elif "layers" in name and "k_proj" not in name and "v_proj" not in name:
            old[name] = tensor
    upgraded = fairseq.upgraded(old)
    assert upgraded.keys() == new.keys() and len(old) < len(new)
    assert all(tensor.equal(new[name]) for name, tensor in upgraded.items())


class Evil:
    def __reduce__(self):
        return exec, ("raise RuntimeError('executed')",)


EMBEDDING = "encoder.embed_tokens.weight"
CHECKPOINTS = {
    "another task": (update("cfg", "task", _name="translation_multi_simple_epoch"), "task = translation_multi_simple"),
    "another tokenizer": (update("cfg", tokenizer={"_name": "moses"}), "tokenizer = moses"),
    "other subwords": (update("cfg", bpe=Namespace(_name="fastbpe")), "bpe = fastbpe: subwords of subword-nmt"),
    "no language": (
        update("cfg", "task", target_lang=None),
        "source_lang = 'en' and target_lang = '' are no languages",
    ),
    "a language that is a path": (update("cfg", "task", target_lang="../de"), "target_lang = '../de'"),
    "no settings": (update(cfg=None), r"no settings \(args or cfg\)"),
    "a section that is none": (update("cfg", model=[1]), r"no settings \(args or cfg\)"),
    "no model": (update(model=3), "arch = transformer_tiny; this code needs parameters of a Transformer"),
    "lightconv": (rename_to_lightconv, "arch = lightconv_wmt_en_de; this code needs parameters of a Transformer"),
    "a parameter less": (drop("decoder.layers.1.fc2.bias"), "has no decoder.layers.1.fc2.bias"),
    "a parameter more": (update("model", extra=torch.ones(1)), "has extra, as no model of its settings does"),
    "another shape": (
        update("model", **{"decoder.layers.0.fc1.bias": torch.ones(F + 1)}),
        rf"its decoder.layers.0.fc1.bias is \[{F + 1}\], not \[{F}\] as its settings say",
    ),
    "fewer layers": (lambda content: setattr(content["cfg"]["model"], "decoder_layers", 1), "has decoder.layers.1."),
    "not finite": (lambda content: content["model"][EMBEDDING].fill_(torch.nan), "has numbers that are not finite"),
    "integers": (update("model", **{"encoder.layers.0.fc1.bias": torch.ones(F, dtype=int)}), "no array of float"),
    "not tied": (
        lambda content: content["model"].update({EMBEDDING: content["model"][EMBEDDING] + 1}),
        "its decoder.embed_tokens.weight is not encoder.embed_tokens.weight",
    ),
    "code": (update(extra_state=Evil()), "it has exec, and what is no tensor may be code"),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_of_fairseq_is_refused(name, folders):
    act, message = CHECKPOINTS[name]
    change(folders / "fairseq/checkpoint_best.pt", act)
    refused(folders / "fairseq", message)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1000])


DAMAGE = {
    "truncated": ("fairseq/checkpoint_best.pt", cut, "checkpoint_best.pt cannot be read: "),
    "no checkpoint": ("fairseq/checkpoint_best.pt", lambda path: path.unlink(), r"has no checkpoint \(\*.pt\)"),
    "a list": ("fairseq/checkpoint_best.pt", lambda path: torch.save([1], path), "cannot be read: it has no names"),
    "a pickle": (
        "fairseq/checkpoint_best.pt",
        lambda path: path.write_bytes(pickle.dumps(Evil(), 2)),
        "checkpoint_best.pt is not read: it has exec",
    ),
    "not torch": (
        "fairseq/checkpoint_best.pt",
        lambda path: path.write_bytes(b"text"),
        "cannot be read: it is damaged, or no file of torch.save",
    ),
    "no dict": ("fairseq/dict.de.txt", lambda path: path.unlink(), "dict.de.txt cannot be read"),
    "a dict of another size": (
        "fairseq/dict.de.txt",
        lambda path: path.write_text(path.read_text() + "more 1\n"),
        "dict.de.txt is not .*dict.en.txt, as share_all_embeddings = True needs",
    ),
    "a piece twice": (
        "fairseq/dict.en.txt",
        lambda path: path.write_text("a 1\nb 1\na 1\n"),
        "dict.en.txt: line 3 has 'a' a second time",
    ),
    "a special piece": (
        "fairseq/dict.en.txt",
        lambda path: path.write_text("<unk> 1 #fairseq:overwrite\n"),
        "dict.en.txt: line 1 is not a piece and its count",
    ),
    "no count": (
        "fairseq/dict.en.txt",
        lambda path: path.write_text("a 1\nb\n"),
        "line 2 is not a piece and its count",
    ),
    "not UTF-8": ("fairseq/dict.en.txt", lambda path: path.write_bytes(b"\xff 1\n"), "dict.en.txt cannot be read"),
    "codes": (
        "fairseq/sentencepiece.bpe.model",
        lambda path: path.rename(path.with_name("bpecodes")),
        "no sentencepiece model .* beside its dict: subwords of subword-nmt or fastBPE",
    ),
    "another vocabulary": (
        "fairseq/dict.en.txt",
        lambda path: path.write_text("other 1\nwords 1\n"),
        "is not the sentencepiece model of .*dict.en.txt",
    ),
    "two sentencepiece models": (
        "fairseq/sentencepiece.bpe.model",
        lambda path: shutil.copy(path, path.with_name("spm.en.model")),
        "sentencepiece.bpe.model, spm.en.model: keep one",
    ),
    "no sentencepiece model": (
        "joeynmt/sentencepiece.bpe.model",
        lambda path: path.write_bytes(b"text"),
        "this is not a sentencepiece model",
    ),
    "no config": (
        "joeynmt/config.yaml",
        lambda path: path.write_text("- 1"),
        "config.yaml cannot be read: it is not",
    ),
    "not YAML": ("joeynmt/config.yaml", lambda path: path.write_text("a: [1\nb: {"), "config.yaml cannot be read: "),
    "code in YAML": (
        "joeynmt/config.yaml",
        lambda path: path.write_text("a: !!python/object/apply:os.system ['false']"),
        "config.yaml cannot be read: could not determine a constructor",
    ),
    "no vocabulary": ("joeynmt/trg_vocab.txt", lambda path: path.unlink(), "trg_vocab.txt cannot be read"),
    "a piece of JoeyNMT twice": (
        "joeynmt/src_vocab.txt",
        lambda path: path.write_text(path.read_text() + "<pad>\n"),
        "src_vocab.txt: line .* has '<pad>' a second time",
    ),
    "another vocabulary of the target": (
        "joeynmt/trg_vocab.txt",
        lambda path: path.write_text(path.read_text() + "more\n"),
        "tied_embeddings = True needs one vocabulary",
    ),
    "no model of JoeyNMT": ("joeynmt/300.ckpt", lambda path: torch.save({}, path), "it has no model_state"),
    "other positions": (
        "joeynmt/300.ckpt",
        lambda path: change(path, lambda content: content["model_state"]["decoder.pe.pe"].add_(0.1)),
        "its (encoder|decoder).pe.pe are not the sinusoids",
    ),
    "other names": (
        "joeynmt/300.ckpt",
        lambda path: change(path, lambda content: content["model_state"].pop("decoder.layers.0.dec_layer_norm.bias")),
        "has no decoder.layers.0.dec_layer_norm.bias",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_folder_is_refused(name, folders):
    where, act, message = DAMAGE[name]
    act(folders / where)
    refused((folders / where).parent, message)


YAML = {
    "model.encoder.type": "recurrent",
    "model.encoder.num_heads": 2,
    "model.encoder.hidden_size": 0,
    "model.encoder.ff_size": 48,
    "model.encoder.alpha": 1.5,
    "model.decoder.layer_norm": None,
    "model.encoder.layer_norm": "pre",
    "model.decoder.activation": "tanh",
    "model.initializer": "xavier_normal",
    "model.encoder.embeddings.embedding_dim": 8,
    "model.encoder": [1],
    "data.src.level": "word",
    "data.trg.tokenizer_type": "subword-nmt",
    "data.src.lowercase": True,
    "data.src.normalize": True,
    "data.src.tokenizer_cfg.pretokenizer": "moses",
    "data.src.tokenizer_cfg.model_file": None,
    "data.special_symbols": {"pad_id": 0},
    "data.special_symbols.sep_token": "<sep>",
    "data.special_symbols.lang_tags": ["<de>"],
    "testing.repetition_penalty": 1.2,
    "testing.no_repeat_ngram_size": 3,
}


@pytest.mark.parametrize("name", YAML)
def test_a_setting_of_joeynmt_is_refused_by_name(name, folders):
    change_yaml(folders / "joeynmt/config.yaml", name, YAML[name])
    refused(folders / "joeynmt", rf"config.yaml: .*{name.split('.')[-1]}")


@pytest.mark.parametrize(("name", "value"), [("model.encoder.dropout", None), ("testing.beam_size", "5")])
def test_a_setting_of_joeynmt_of_another_type_is_refused(name, value, folders):
    change_yaml(folders / "joeynmt/config.yaml", name, value)
    refused(folders / "joeynmt", "config.yaml: a setting of model or testing is of the wrong type")


def change_yaml(path, name, value):
    import yaml

    config = yaml.safe_load(path.read_text())
    *sections, last = name.split(".")
    section = config
    for each in sections:
        section = section.setdefault(each, {})
    section[last] = value
    path.write_text(yaml.safe_dump(config))


def test_scales_that_differ_are_refused(folders):
    change_yaml(folders / "joeynmt/config.yaml", "model.decoder.embeddings.scale", False)
    read_joeynmt(folders / "joeynmt", quiet)  # the one matrix is the encoder's
    change_yaml(folders / "joeynmt/config.yaml", "model.tied_embeddings", False)
    refused(folders / "joeynmt", "embeddings.scale of encoder and decoder differ")


def test_another_function_fails_the_check_and_leaves_nothing(folders, monkeypatch):
    monkeypatch.setattr(fairseq, "EPSILON", 0.1)
    model, peer = read_fairseq(folders / "fairseq", quiet)
    peer.function = peer.function._replace(epsilon=1e-5)
    with pytest.raises(UserError, match=r"fairseq gives other scores, by up to .*, above 0.0001"):
        compare(model, peer, SENTENCES[:1], quiet)


def test_a_file_that_is_no_folder_of_a_program_is_refused(tmp_path):
    (tmp_path / "a.pt").write_text("")
    refused(tmp_path / "a.pt", "beside it there is no config.yaml or dict")
    refused(tmp_path / "nothing", "is not a folder with a model")
