"""Treebanks at public addresses: which trees belong to which split, and what identifies them."""

import zipfile
from dataclasses import replace

import pytest

from data.corpora import CORPORA, open_treebanks
from data.corpora.hosted import HostedTreebank, Part
from data.fetch import RemoteFile, sha256_of
from data.text import read_lines

TREE = "( (S (NP-SBJ (NN {}) ) (VP (VBZ works)) (. .) ))\n"


@pytest.fixture
def hosted(tmp_path, monkeypatch):
    """A treebank of an archive, of which one member each is for training and validation, and of two files."""
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    with zipfile.ZipFile(mirror / "news.zip", "w") as whole:
        for letter in "abc":
            whole.writestr(f"combined/{letter}.mrg", TREE.format(letter))
    for letter in "de":
        (mirror / f"{letter}.tree").write_text(TREE.format(letter))
    monkeypatch.setenv("DATA_MIRROR", str(mirror))

    def remote(name):
        return RemoteFile("news", f"https://example.org/trees/{name}", sha256_of(mirror / name))

    news, files = (remote("news.zip"),), (remote("d.tree"), remote("e.tree"))
    return HostedTreebank(
        "news",
        "free",
        {"train": (Part(news, ("combined/a.mrg",)), Part(files)), "dev": (Part(news, ("combined/b.mrg",)),)},
        {"more": Part(files[1:])},
    )


def words(pairs) -> list[str]:
    return [sentence.split()[0] for sentence, _ in pairs]


def test_a_split_has_the_trees_of_its_parts(hosted, tmp_path):
    assert words(hosted.pairs("train", None, tmp_path, print)) == ["a", "d", "e"]
    assert words(hosted.pairs("train", 2, tmp_path, print)) == ["a", "d"]
    assert words(hosted.pairs("dev", None, tmp_path, print)) == ["b"]
    pairs, sources = hosted.test_set("more", tmp_path, print)
    assert pairs == [("e works .", "(TOP (S (NP (NN e)) (VP (VBZ works)) (. .)))")]
    assert sources["target"].name == "https://example.org/trees/e.tree"


def test_other_members_or_other_files_are_another_source(hosted, tmp_path):
    before = hosted.sources(tmp_path, print)
    assert set(before) == {"train.target", "train.target.1", "dev.target"}
    assert len({source.sha256 for source in before.values()}) == 3
    news, files = hosted.parts["train"]
    for changed in ((news._replace(members=("combined/c.mrg",)), files), (news, files._replace(files=files.files[:1]))):
        other = replace(hosted, parts=hosted.parts | {"train": changed}).sources(tmp_path, print)
        assert {role for role in before if before[role] != other[role]} < {"train.target", "train.target.1"}
        assert other != before


def test_the_sample_and_craft_are_divided_without_overlap():
    sample, craft = CORPORA["wsj-sample"], CORPORA["wsj-craft"]
    members = [member for parts in sample.parts.values() for part in parts for member in part.members]
    assert members == [f"treebank/combined/wsj_{number:04}.mrg" for number in range(1, 200)]
    assert craft.parts["test"] == sample.parts["test"] and craft.parts["train"][:1] == sample.parts["train"]
    articles = [*craft.parts["train"][1].files, *craft.test_sets["craft"].files]
    listed = list(read_lines(open_treebanks.CRAFT_HASHES))
    assert [f"{file.sha256}  {file.name}" for file in articles] == listed
    assert len(set(listed)) == 97 and all(len(file.sha256) == 64 for file in articles)
