"""The vocabulary: fixed special ids, lossless encoding, and a deterministic model file."""

import itertools
import pickle
import random
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2

from data import tokenizer as module
from data.tokenizer import END_PIECE, Tokenizer, train_tokenizer
from transformer.config import BOS, EOS, PAD, UNK, UserError

WORDS = ["".join(p) for n in (2, 3) for p in itertools.product("abcdefgh", repeat=n)]


def _lines(count: int = 3000) -> list[str]:
    choose = random.Random(0)
    return [" ".join(choose.choices(WORDS, k=8)) for _ in range(count)]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return train_tokenizer(_lines(), tmp_path_factory.mktemp("small") / "vocab.model", "bpe", 300)


@pytest.fixture(scope="module")
def with_bytes(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A vocabulary that is large enough to include byte pieces for unknown characters."""
    choose = random.Random(0)
    words = ["".join(choose.choices("abcdefghijklmnopqrstuvwxyzäöü", k=8)) for _ in range(3000)]
    return train_tokenizer(words, tmp_path_factory.mktemp("large") / "vocab.model", "bpe", 4096)


def test_special_ids_are_fixed(small: Tokenizer) -> None:
    assert (PAD, BOS, EOS, UNK) == (0, 1, 2, 3)
    assert small.pieces([0, 1, 2, 3]) == ["<pad>", "<s>", "</s>", "<unk>"]
    assert small.size == 300


@pytest.mark.parametrize("vocab_type", ["bpe", "unigram"])
def test_the_same_lines_give_the_same_bytes(tmp_path: Path, vocab_type: str) -> None:
    models = []
    for name in ("a.model", "elsewhere.model"):
        train_tokenizer(iter(_lines(500)), tmp_path / name, vocab_type, 100)  # type: ignore[arg-type]
        models.append((tmp_path / name).read_bytes())
    assert models[0] == models[1]


def test_training_is_silent(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    train_tokenizer(_lines(100), tmp_path / "vocab.model", "bpe", 60)
    assert capfd.readouterr() == ("", "")


@given(st.lists(st.text(st.sampled_from("abcdefgh "), max_size=30), max_size=5))
def test_known_text_comes_back(small: Tokenizer, lines: list[str]) -> None:
    ids = small.encode(lines)
    assert all(i[-1] == EOS and EOS not in i[:-1] and BOS not in i for i in ids)
    assert small.decode(ids) == [_spaced(line) for line in lines]


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁"), max_size=30))
def test_any_text_comes_back_when_there_are_bytes(with_bytes: Tokenizer, line: str) -> None:
    ids = with_bytes.encode([line])
    assert UNK not in ids[0]
    assert with_bytes.decode(ids) == [_spaced(line)]


def _spaced(line: str) -> str:
    """Normalizes spaces as sentencepiece does: one between words."""
    return " ".join(word for word in line.split(" ") if word)


def test_specials_written_in_text_stay_text(with_bytes: Tokenizer) -> None:
    ids = with_bytes.encode(["</s> <pad> <s>"])
    assert ids[0].count(EOS) == 1
    assert with_bytes.decode(ids) == ["</s> <pad> <s>"]


def test_decoding_stops_at_the_first_eos_and_drops_padding(small: Tokenizer) -> None:
    (ids,) = small.encode(["abc fgh"])
    assert small.decode([[BOS, *ids, *ids, PAD, PAD], [PAD, EOS], []]) == ["abc fgh", "", ""]
    assert small.decode([]) == []
    assert small.encode([]) == []


def test_ids_outside_of_the_vocabulary_read_as_unknown(small: Tokenizer) -> None:
    assert small.decode([[300, 70_000, -1]]) == small.decode([[UNK, UNK, UNK]])
    assert small.pieces([300]) == ["<unk>"]


def test_pieces_go_back_to_ids_or_are_refused(small: Tokenizer) -> None:
    (ids,) = small.encode(["abc é fgh"])
    assert UNK in ids and small.ids(small.pieces(ids)) == ids
    assert small.ids([]) == []
    with pytest.raises(UserError, match="'é' is not a piece"):
        small.ids(["▁a", "é"])


def test_characters_that_no_piece_spells_are_known(small: Tokenizer, with_bytes: Tokenizer) -> None:
    assert small.unknown("aé b\u200bé") == ["é", "\u200b"]
    assert small.unknown("abc ▁") == small.unknown("") == with_bytes.unknown("你") == []


def test_save_load_and_hash(small: Tokenizer, tmp_path: Path) -> None:
    small.save(tmp_path / "copy.model")
    for copy in (Tokenizer.load(tmp_path / "copy.model"), Tokenizer(small.to_bytes())):
        assert copy.sha256 == small.sha256
        assert copy.encode(["abc"]) == small.encode(["abc"])


def test_the_source_may_have_a_model_of_its_own(small: Tokenizer, with_bytes: Tokenizer, tmp_path: Path) -> None:
    both = Tokenizer(small.to_bytes(), with_bytes)
    for name, content in both.files().items():
        (tmp_path / name).write_bytes(content)
    for copy in (both, Tokenizer.load(tmp_path), pickle.loads(pickle.dumps(both))):
        assert (copy.size, copy.source.size) == (300, 4096)
        assert copy.encode(["abc fgh"]) == small.encode(["abc fgh"])
        assert copy.source.encode(["abc fgh"]) == with_bytes.encode(["abc fgh"])
        assert copy.sha256 == both.sha256 and not copy.one_vocabulary
    hashes = {small.sha256, with_bytes.sha256, both.sha256, Tokenizer(with_bytes.to_bytes(), small).sha256}
    assert len(hashes) == 4


def test_one_model_for_both_sides_is_that_model(small: Tokenizer) -> None:
    same = Tokenizer(small.to_bytes(), Tokenizer(small.to_bytes()))
    assert same.sha256 == small.sha256 and same.source is same and list(same.files()) == ["vocab.model"]


@pytest.mark.parametrize("content", [b"", b"hello", b"\x00" * 1000])
def test_other_files_are_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.model"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"x\.model: this is not a sentencepiece model"):
        Tokenizer.load(path)
    with pytest.raises(UserError, match=r"y\.model: cannot be read"):
        Tokenizer.load(tmp_path / "y.model")


def test_a_model_with_other_ids_is_refused(tmp_path: Path) -> None:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_lines(100)), model_prefix=str(tmp_path / "t5"), vocab_size=60, minloglevel=3
    )
    with pytest.raises(UserError, match=r"pad, bos, eos, unk at \(-1, 1, 2, 0\), not at \(0, 1, 2, 3\)"):
        Tokenizer.load(tmp_path / "t5.model")


@pytest.mark.parametrize("asked", [2000, 5000])
@pytest.mark.parametrize("vocab_type", ["bpe", "unigram"])
def test_too_large_a_vocabulary_names_one_that_works(tmp_path: Path, asked: int, vocab_type: str) -> None:
    with pytest.raises(UserError, match=r"too large for this text: at most \d+") as caught:
        train_tokenizer(_lines(200), tmp_path / "v", vocab_type, asked)  # type: ignore[arg-type]
    possible = int(str(caught.value).split("at most ")[1].split()[0])
    assert train_tokenizer(_lines(200), tmp_path / "v", vocab_type, possible).size == possible  # type: ignore[arg-type]


def test_too_small_a_vocabulary_names_one_that_works(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"too small .* take \d+") as caught:
        train_tokenizer(_lines(), tmp_path / "v", "bpe", 10)
    possible = int(str(caught.value).split("take ")[1].split()[0])
    assert train_tokenizer(_lines(), tmp_path / "v", "bpe", possible).size == possible


def test_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no text"):
        train_tokenizer(["", "  ", "▅", "▁▅"], tmp_path / "v", "bpe", 50)


def test_lines_that_sentencepiece_would_leave_out_count_as_others_do(tmp_path: Path) -> None:
    """Sentences with sentencepiece's space symbol, and sentences that it would skip as too long."""
    plain, english = _lines(500), ["the man sees a dog"] * 500
    expected = train_tokenizer(english + plain, tmp_path / "v", "bpe", 100).to_bytes()
    marked = [line + "▅" for line in plain]
    assert train_tokenizer(english + marked, tmp_path / "v", "bpe", 100).to_bytes() == expected
    long = [" ".join(plain)]
    assert len(long[0]) > 2 * 4192
    assert train_tokenizer(english + long, tmp_path / "v", "bpe", 100).to_bytes() == expected


def test_a_long_line_without_a_space_counts_too(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["ü€" * 5000, "ab"], tmp_path / "v", "bpe", 12)
    assert {"ü", "€", "a", "b"} <= tokenizer.characters


@pytest.mark.parametrize("character", "ab z\t\0\x07\r\xa0\u3000\u2028\u200b\ufeff\ufffd⁇▁▅")
@pytest.mark.parametrize("name", ["seen", "with_bytes"])
def test_the_characters_of_a_vocabulary_are_those_that_come_back(
    name: str, character: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Including characters with a special role in Unicode or sentencepiece, if they occur in the training text."""
    lines = _lines(500) + [f"a{character}b c{character}d"] * 20
    seen = train_tokenizer(lines, tmp_path / "v", "bpe", 100)
    tokenizer = seen if name == "seen" else request.getfixturevalue(name)
    text = f"a{character}b"
    ids = tokenizer.encode([text])
    spelled = UNK in ids[0] or any(piece.startswith("<0x") for piece in tokenizer.pieces(ids[0]))
    assert (character in tokenizer.characters) == (tokenizer.decode(ids) == [text] and not spelled)
    assert name != "seen" or (character in tokenizer.characters) == (character not in "\0▁▅")


@pytest.mark.parametrize(
    ("character", "in_bytes", "without"), [("\0", "\0", " ⁇ "), ("▅", "▅", " ⁇ "), ("▁", " ", " ")]
)
def test_what_never_has_a_piece_is_spelled_in_bytes_but_for_the_sign_of_the_space(
    small: Tokenizer, with_bytes: Tokenizer, character: str, in_bytes: str, without: str
) -> None:
    text = f"ab{character}cd"
    assert with_bytes.decode(with_bytes.encode([text])) == [f"ab{in_bytes}cd"]
    assert small.decode(small.encode([text])) == [f"ab{without}cd"]


def test_text_that_is_not_unicode_is_refused(small: Tokenizer) -> None:
    with pytest.raises(UserError, match="not valid text"):
        small.encode(["a\udc80"])


@given(st.integers(0, 500), st.integers(1, 60))
def test_a_sample_is_even(count: int, most: int) -> None:
    kept = module._sample(map(str, range(count)), most)
    numbers = list(map(int, kept))
    assert len(numbers) <= most
    assert len(numbers) > most // 2 or count <= most
    assert len({b - a for a, b in itertools.pairwise(numbers)}) <= 1  # one stride over all lines
    if count <= most:
        assert numbers == list(range(count))


@pytest.fixture(scope="module")
def imported(small: Tokenizer) -> Tokenizer:
    """A vocabulary as imported: pieces that are never chosen, an end, and pieces behind it."""
    proto = sentencepiece_model_pb2.ModelProto.FromString(small.to_bytes())
    kind = proto.SentencePiece
    for name, kind_of in (("é", kind.UNUSED), (">>de<<", kind.UNUSED), (END_PIECE, kind.UNUSED), ("xyz", kind.NORMAL)):
        proto.pieces.add(piece=name, score=0.0, type=kind_of)
    for letter in "xyz":
        proto.pieces.add(piece=letter, score=-1000.0, type=kind.NORMAL)
    return Tokenizer(proto.SerializeToString())


def test_a_piece_behind_the_end_is_chosen_and_read_as_unknown(imported: Tokenizer, small: Tokenizer) -> None:
    assert imported.size == 302 and "x" not in imported.characters
    (ids,) = imported.encode(["abc x"])
    assert ids == [*small.encode(["abc"])[0][:-1], *ids[-3:-1], EOS] and ids[-2] == UNK
    assert imported.unknown("abc x") == ["x"]
    assert imported.decode([[imported.size + 1]]) == imported.decode([[UNK]])
    with pytest.raises(UserError, match="'x' is not a piece"):
        imported.ids(["x"])


def test_unknown_text_is_looked_up_among_the_pieces_that_are_never_chosen(imported: Tokenizer) -> None:
    assert imported.pieces(imported.encode(["abé"])[0])[-2:] == ["é", "</s>"]
    assert imported.encode(["abèè"])[0][-2] == UNK
    assert imported.decode(imported.encode(["abé"])) == ["abé"]


def test_a_language_code_is_one_piece_at_the_beginning_only(imported: Tokenizer, small: Tokenizer) -> None:
    code = imported.ids([">>de<<"])[0]
    assert imported.encode([">>de<< abc", ">>de<<abc"]) == [[code, *small.encode(["abc"])[0]]] * 2
    assert imported.encode([">>xx<< abc"])[0][0] == UNK
    assert code not in imported.encode(["abc >>de<<"])[0]
    assert imported.surfaces(">>de<< abc") == [">>de<<", *small.surfaces("abc")]
    assert small.encode([">>de<< abc"]) != [[UNK, *small.encode(["abc"])[0]]]  # it has no codes: this is text
