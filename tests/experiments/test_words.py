"""Words and their pieces, and word alignments: in Python, and from the command line."""

import json

import numpy as np
import pytest

import experiments
from data.tokenizer import train_tokenizer
from experiments.cli.main import main
from experiments.words import aligned, words_of_pieces
from transformer.config import UserError
from transformer.variants.decoding.alignment import Head


@pytest.fixture(scope="module")
def translator(run):
    return experiments.load(run.path, log=lambda line: None)


LINES = ["Der Mann  sieht den Hund .", " a\u00a0Haus ☃☃ x☃y", "a▁b ▁ Mann▁", "日本 Mann\u3000é"]


@pytest.mark.parametrize("line", LINES)
def test_the_pieces_of_each_word_spell_it(translator, line):
    tokenizer = translator.tokenizer
    pieces = tokenizer.surfaces(line)
    places = words_of_pieces(tokenizer, pieces, line)
    assert len(places) == len(pieces) and places == sorted(places)
    for number, word in enumerate(line.split()):
        spelled = "".join(piece for piece, place in zip(pieces, places, strict=True) if place == number)
        # A space that is not ASCII can be in one piece with the characters around it.
        if "☃" not in word or "\u00a0" not in line:
            assert word.replace("▁", "").strip() in spelled.replace("▁", "")


def test_the_bytes_of_a_character_belong_to_its_word(text, tmp_path):
    lines = (text / "train.en").read_text(encoding="utf-8").splitlines()
    more = [f"{a}{b}{c}" for a in "abcdefghijklmno" for b in "pqrstuvwxyzabcdefghij" for c in "klmnopqrstuvwxyz"]
    tokenizer = train_tokenizer([*lines, *(" ".join(more[i::50]) for i in range(50))], tmp_path / "v", "bpe", 4200)
    line = "the 日本 dog☃ é"
    pieces = tokenizer.surfaces(line)
    assert "<0xE6>" in pieces
    places = words_of_pieces(tokenizer, pieces, line)
    for number, word in enumerate(line.split()):
        assert tokenizer.join([p for p, place in zip(pieces, places, strict=True) if place == number]) == word


def test_words_point_at_the_largest_sum_and_ties_at_the_first():
    weights = np.array([[0.4, 0.3, 0.3, 0.0], [0.6, 0.2, 0.2, 0.0], [0.25, 0.25, 0.5, 0.0], [0.0, 0.0, 0.0, 1.0]])
    assert aligned(weights, [0, 1, 1], [0, 1, 1]) == [(1, 0), (1, 1)]
    assert aligned(weights[:1], [0, 1], [0]) == [(0, 0)]
    assert aligned(np.full((1, 2), 0.5), [0, 1], [0]) == [(0, 0)]
    assert aligned(weights, [], []) == aligned(weights, [0], [-1]) == []


@pytest.mark.slow
@pytest.mark.parametrize("head", [None, (1, 2)])
def test_alignments_are_the_largest_attention_between_words(translator, run, tmp_path, capsys, head):
    sentences = ["The man sees the dog.", "", "A small house and a woman."]
    (tmp_path / "in").write_text("\n".join(sentences) + "\n")
    flags = ["--beam", "1", "--input", str(tmp_path / "in"), "--alignments", str(tmp_path / "links")]
    flags += ["--alignment-head", f"{head[0]}.{head[1]}"] if head else []
    main(["translate", str(run.path), *flags, "--json"])
    printed = [json.loads(line)["translations"][0] for line in capsys.readouterr().out.splitlines()]
    lines = (tmp_path / "links").read_text().split("\n")
    assert len(lines) == 4 and lines[1] == lines[3] == "" and lines[0] and lines[2]
    for sentence, one, line in zip(sentences, printed, lines, strict=False):
        assert " ".join(f"{i}-{j}" for i, j in one["alignment"]) == line
        if not sentence:
            continue
        seen = translator.attention(sentence, one["pieces"])
        cross = seen.weights.cross[head[0] - 1][head[1] - 1] if head else seen.weights.cross[-1].mean(axis=0)
        sums = np.zeros((len(one["text"].split()), len(sentence.split())))
        target, source = (
            np.cumsum([p.startswith("▁") for p in seen.target]),
            np.cumsum([p.startswith("▁") for p in seen.source]),
        )
        for t, piece in enumerate(seen.target):
            for s in range(len(seen.source) - 1):
                if piece != "</s>":
                    sums[max(target[t] - 1, 0), source[s] - 1] += cross[t, s]
        assert one["alignment"] == [[int(row.argmax()), j] for j, row in enumerate(sums)]


def test_heads_that_do_not_exist_are_refused(run, tmp_path, capsys):
    flags = ["translate", str(run.path), "--alignment-head"]
    links = ["--alignments", str(tmp_path / "links")]
    for words, said in (
        (["2.1", *links], "no head 2.1: the decoder has 1 layer of 2 heads"),
        (["1.3", *links], "no head 1.3"),
        (["0.1", *links], "LAYER.HEAD"),
        (["1.1"], "needs that flag"),
    ):
        with pytest.raises(SystemExit) as end:
            main([*flags, *words])
        assert end.value.code == 2 and said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_head_in_python_is_checked(translator):
    found = translator.n_best(["A dog."], 1)[0]
    with pytest.raises(UserError, match=r"no head 1\.3"):
        translator.align(["A dog."], found, Head(0, 2))
