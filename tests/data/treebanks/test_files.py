"""Treebanks as they are found: files, folders and archives; and the sections of the Wall Street Journal."""

import gzip
import lzma
import tarfile
import zipfile

import pytest

from data.corpora import find_corpus, wsj
from data.dataset import adopt, prepare
from data.treebanks.files import digest_of, pairs_in, trees_in
from data.treebanks.trees import words_of
from transformer.config import DataConfig, UserError

TREE = "( (S \n    (NP-SBJ (NN {}) )\n    (VP (VBZ works) (NP (-NONE- *)))\n    (. .) ))\n"


def texts(path) -> list[str]:
    return [next(words_of(tree)).text for tree in trees_in(path)]


@pytest.fixture
def folder(tmp_path):
    """Trees named by a letter: a and b in files, c in a gzip file, d in an xz file, and a file without trees."""
    made = tmp_path / "treebank"
    (made / "02").mkdir(parents=True)
    (made / "02" / "wsj_0201.mrg").write_text(TREE.format("a") + TREE.format("b"))
    (made / "03.tree.gz").write_bytes(gzip.compress(TREE.format("c").encode()))
    (made / "04.tree.xz").write_bytes(lzma.compress(TREE.format("d").encode()))
    (made / "README").write_text("(this is no tree")
    return made


def test_trees_are_read_from_files_folders_and_archives_in_the_order_of_their_paths(folder, tmp_path):
    assert texts(folder) == ["a", "b", "c", "d"]
    assert texts(folder / "03.tree.gz") == ["c"]
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as whole:
        for file in sorted(folder.rglob("*"), reverse=True):
            whole.write(file, file.relative_to(folder))
    assert texts(tmp_path / "all.zip") == ["a", "b", "c", "d"]
    for ending in ("tar", "tgz", "tar.xz"):
        with tarfile.open(tmp_path / f"all.{ending}", f"w:{'gz' if ending == 'tgz' else ending[4:]}") as tar:
            for file in sorted(folder.rglob("*"), reverse=True):
                tar.add(file, file.relative_to(folder), recursive=False)
        assert texts(tmp_path / f"all.{ending}") == ["a", "b", "c", "d"]
    assert next(iter(pairs_in(folder))) == ("a works .", "(TOP (S (NP (NN a)) (VP (VBZ works)) (. .)))")


def test_the_hidden_files_of_macos_are_no_trees(folder, tmp_path):
    (folder / "02" / "._wsj_0201.mrg").write_bytes(b"\0\5\x16\7\xff")
    before = digest_of(folder)
    with zipfile.ZipFile(tmp_path / "mac.zip", "w") as whole:
        whole.write(folder / "02" / "wsj_0201.mrg", "02/wsj_0201.mrg")
        whole.writestr("__MACOSX/02/._wsj_0201.mrg", b"\0\5\x16\7\xff")
    assert texts(folder) == ["a", "b", "c", "d"] and texts(tmp_path / "mac.zip") == ["a", "b"]
    (folder / "02" / "._wsj_0201.mrg").unlink()
    assert digest_of(folder) == before


def test_an_archive_with_a_password_is_refused(tmp_path):
    path = tmp_path / "secret.zip"
    with zipfile.ZipFile(path, "w") as whole:
        whole.writestr("a.mrg", TREE.format("a"))
    content = bytearray(path.read_bytes())
    for header, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.find(header) + flags] |= 1
    path.write_bytes(bytes(content))
    with pytest.raises(UserError, match=r"secret\.zip: cannot be read .*password"):
        list(trees_in(path))


def test_a_treebank_is_known_by_the_names_and_the_content_of_its_files(folder):
    before = digest_of(folder)
    (folder / "README").write_text("other")
    assert digest_of(folder) == before
    (folder / "03.tree.gz").rename(folder / "05.tree.gz")
    assert digest_of(folder) != before
    assert digest_of(folder / "04.tree.xz") != digest_of(folder / "05.tree.gz")


def test_what_cannot_be_read_is_named(folder, tmp_path):
    (folder / "02" / "wsj_0202.mrg").write_text(TREE.format("x")[:-3])
    with pytest.raises(UserError, match=r"wsj_0202\.mrg, line 1: a bracket that is never closed"):
        list(trees_in(folder))
    (folder / "02" / "wsj_0202.mrg").write_bytes(b"( (S (NN caf\xe9)) )")
    with pytest.raises(UserError, match=r"wsj_0202\.mrg, line 1: byte 0xe9"):
        list(trees_in(folder))
    for name in ("half.tar", "half.zip", "half.tree.gz", "half.tree.xz"):
        (tmp_path / name).write_bytes(gzip.compress(TREE.encode())[:40])
        with pytest.raises(UserError, match=r"damaged or truncated archive|cannot be read"):
            list(trees_in(tmp_path / name))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty has no files with trees"):
        list(trees_in(tmp_path / "empty"))
    with pytest.raises(UserError, match="no such file"):
        list(trees_in(tmp_path / "nowhere"))


def settings(pieces: int = 28, **files) -> DataConfig:
    sizes = {"vocabularies": "separate", "vocab_size": 50, "source_vocab_size": pieces, "max_unknown": 1.0}
    return DataConfig(task="parsing", **sizes, **files)


def test_a_treebank_of_the_user_needs_no_sentences_beside_it(folder, tmp_path):
    config = settings(16, train_tgt=str(folder), dev_tgt=str(folder / "03.tree.gz"))
    data = prepare(config, tmp_path / "prepared", log=lambda line: None)
    assert [len(split) for split in (data.train, data.dev, data.test)] == [4, 1, 1]
    assert data.text("dev", "source") == ["c works ."]
    with pytest.raises(UserError, match=r"nowhere: no such file.*give the file with --data\.train-tgt"):
        prepare(settings(train_tgt=str(tmp_path / "nowhere"), dev_tgt=str(folder)), tmp_path / "other", print)
    with pytest.raises(UserError, match=r"--data\.dev-tgt is missing: your own treebank needs train and dev"):
        find_corpus(settings(train_tgt=str(folder)))
    with pytest.raises(UserError, match=r"--data\.dev-src: the sentences of a treebank are those of its trees"):
        find_corpus(settings(train_tgt=str(folder), dev_src=str(folder), dev_tgt=str(folder)))
    with pytest.raises(UserError, match=r"--data\.train-tgt is missing: your own treebank"):
        find_corpus(settings(corpus="files"))


@pytest.fixture
def small_wsj(monkeypatch, tmp_path):
    """Twenty sections of one tree to train on, and two trees each in 22 and 23, as in a copy from the LDC."""
    monkeypatch.setattr(wsj, "TREES", {"train": 20, "dev": 2, "test": 2})
    given = tmp_path / "LDC99T42"
    for section in range(25):
        file = given / f"parsed/mrg/wsj/{section:02}" / f"wsj_{section:02}00.mrg"
        file.parent.mkdir(parents=True)
        file.write_text(TREE.format(f"word{section}") * (2 if section in (22, 23) else 1))
    (given / "parsed/prd").mkdir()
    (given / "parsed/prd/wsj_0200.prd").write_text(TREE.format("twice"))
    return given


def test_the_sections_of_the_wall_street_journal(small_wsj, tmp_path):
    config = settings(corpus="wsj")
    with pytest.raises(UserError, match=r"LDC99T42.*prepare wsj --from-dir FOLDER"):
        prepare(config, tmp_path, log=lambda line: None)
    adopt(config, small_wsj, tmp_path, log=lambda line: None)
    data = prepare(config, tmp_path, log=lambda line: None)
    assert [len(split) for split in (data.train, data.dev, data.test)] == [20, 2, 2]
    assert set(data.text("test", "source")) == {"word23 works ."}
    with pytest.raises(UserError, match="already exists"):
        adopt(config, small_wsj, tmp_path, log=lambda line: None)


def test_a_copy_that_is_not_whole_is_refused_and_nothing_is_left(small_wsj, tmp_path):
    (small_wsj / "parsed/mrg/wsj/05/wsj_0500.mrg").unlink()
    with pytest.raises(UserError, match="19 trees in the sections 02 to 21 of wsj, not 20"):
        adopt(settings(corpus="wsj"), small_wsj, tmp_path / "data", log=lambda line: None)
    assert not (tmp_path / "data").exists()


def test_the_semi_supervised_text_has_parsed_sentences_too(small_wsj, tmp_path):
    config = settings(corpus="wsj-semi")
    with pytest.raises(UserError, match="has no folder 'silver'"):
        adopt(config, small_wsj, tmp_path, log=lambda line: None)
    (small_wsj / "silver").mkdir()
    (small_wsj / "silver" / "parsed.trees").write_text(TREE.format("silver") * 7)
    adopt(config, small_wsj, tmp_path, log=lambda line: None)
    assert len(prepare(config, tmp_path, log=lambda line: None).train) == 27
