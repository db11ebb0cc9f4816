"""Corpora: parallel files are read exactly, downloads are verified, and errors name the file and line."""

import gzip
import hashlib
import lzma
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from data.corpora import CORPORA, find_corpus
from data.corpora.corpus import SPLITS
from data.corpora.hosted import HostedCorpus
from data.encoding import Counts
from data.fetch import RemoteFile, fetch
from data.text import is_blank, is_blank_line, read_lines, read_pairs
from transformer.config import DataConfig, UserError, counted

CONTENT = gzip.compress(b"a man\na dog\n", mtime=0)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


# Reading text


def test_lines_end_at_newlines_alone(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\xe2\x80\xa8still two\x0b\x0c\x1c\xc2\x85\nthree \rstill\n\nlast")
    assert list(read_lines(path)) == [
        "one",
        "two\u2028still two\x0b\x0c\x1c\x85",
        "three \rstill",
        "",
        "last",
    ]


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".xz", lzma.compress)])
def test_archives_are_read_and_truncated_ones_refused(tmp_path: Path, suffix: str, pack: Any) -> None:
    path = tmp_path / f"text{suffix}"
    packed = pack(b"".join(b"line %d\n" % i for i in range(1000)))
    path.write_bytes(packed)
    assert len(list(read_lines(path))) == 1000
    for damaged in (packed[: len(packed) // 2], packed[:3], b"no archive at all"):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=f"text{suffix}: damaged or truncated archive"):
            list(read_lines(path))


def test_bytes_that_are_not_utf8_are_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "latin1"
    path.write_bytes("gut\nschön\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin1, line 2: byte 0xf6 at position 3 is not UTF-8"):
        list(read_lines(path))


def test_line_ends_of_carriage_returns_alone_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "old-mac"
    texts = (b"one\rtwo\rthree\r", b"one\rtwo", b"one two\r" * 200_000)
    last_one_ended = (
        b"one\rtwo\rthree\n",
        b"one\rtwo\rthree\r\n",
        b"one\rtwo\r" * 99 + b"\n",
        b"one two\r" * 200_000 + b"\n",
    )
    for content in texts + last_one_ended + (b"one\rtwo\rthree\n" * 2,):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"old-mac: its line ends are CR alone: convert them.*tr"):
            list(read_lines(path))
    for content in (b"one line", b"one line\r", b"one\rline\n", b"\r\n"):
        path.write_bytes(content)
        assert len(list(read_lines(path))) == 1
    path.write_bytes(b"one\n" * 3 + b"a sentence\rwith\rsome\n")
    assert list(read_lines(path))[3:] == ["a sentence\rwith\rsome"]


@pytest.mark.parametrize("lines", [1, 2])
def test_a_count_of_one_is_singular(lines: int, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_text("one\n" * lines)
    target.write_text("one\n" * 3)
    with pytest.raises(UserError, match=r"has 1 line but" if lines == 1 else r"has 2 lines but"):
        list(read_pairs(source, target))
    counts = Counts(kept=lines, source_tokens=8 * lines, target_tokens=9 * lines)
    assert str(counts).startswith("1 pair, " if lines == 1 else "2 pairs, ")
    assert counted(lines * 1000, "batch", "batches") == f"{lines},000 batches" and counted(1, "batch") == "1 batch"


@pytest.mark.parametrize("side", [0, 1])
def test_line_ends_of_carriage_returns_alone_are_told_before_numbers_of_lines_that_differ(
    side: int, tmp_path: Path
) -> None:
    files = tmp_path / "source", tmp_path / "target"
    for file in files:
        file.write_bytes(b"one\ntwo\nthree\n")
    files[side].write_bytes(b"one\rtwo\rthree\n")
    with pytest.raises(UserError, match=rf"{files[side].name}: its line ends are CR alone"):
        list(read_pairs(*files))


def test_missing_file_and_directory_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.en: no such file"):
        list(read_lines(tmp_path / "nowhere.en"))
    with pytest.raises(UserError, match="is a directory"):
        list(read_lines(tmp_path))


def _two(folder: Path, source: str, target: str) -> tuple[Path, Path]:
    paths = folder / "a.en", folder / "a.de"
    for path, text in zip(paths, (source, target), strict=True):
        path.write_text(text, encoding="utf-8")
    return paths


@pytest.mark.parametrize(
    "line", ["", " \t", "\xa0\u2003", "\u2028\x85", "\x00\x1f", "\u200b", "\ufeff", "\xad", "▁", "▁ ▁"]
)
def test_a_line_that_shows_nothing_is_blank(line: str) -> None:
    assert is_blank_line(line)
    assert is_blank(("a", line)) and is_blank((line, "a"))
    assert not is_blank_line(line + ".") and not is_blank_line("▅" + line)


def test_pairs_are_line_by_line_and_the_blank_ones_are_known(tmp_path: Path) -> None:
    pairs = list(read_pairs(*_two(tmp_path, "a\n\nc\n", "x\ny\n \t\n")))
    assert pairs == [("a", "x"), ("", "y"), ("c", " \t")]
    assert [is_blank(pair) for pair in pairs] == [False, True, True]


@pytest.mark.parametrize(("left", "right"), [(3, 5), (5, 3), (0, 2), (4, 3)])
def test_different_numbers_of_lines_are_refused_with_both_counts(tmp_path: Path, left: int, right: int) -> None:
    files = _two(tmp_path, "x\n" * left, "y\n" * right)
    with pytest.raises(UserError, match=rf"a\.en has {left} lines but .*a\.de has {right}"):
        list(read_pairs(*files))


def test_empty_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.en and .*a\.de are empty"):
        list(read_pairs(*_two(tmp_path, "", "")))


# Finding a corpus


def test_unknown_corpus_lists_the_nearest_first() -> None:
    with pytest.raises(UserError, match=r"unknown data\.corpus 'multi30k-de'; there are: multi30k-en-de, .*grammar"):
        find_corpus(DataConfig(corpus="multi30k-de"))


def test_named_corpora_say_where_they_come_from(tmp_path: Path) -> None:
    for name, corpus in CORPORA.items():
        assert find_corpus(DataConfig(corpus=name)) is corpus
        assert corpus.name == name
        assert corpus.licence
    for corpus in (CORPORA["multi30k-en-de"], CORPORA["multi30k-en-fr"]):
        sources = corpus.sources(tmp_path, print)
        assert len(sources) == 6
        for role, source in sources.items():
            assert source.name.startswith("https://")
            assert len(bytes.fromhex(source.sha256)) == 32
            assert (".en." in source.name) == (role.endswith("source"))  # always English -> the other


def _own(folder: Path) -> DataConfig:
    paths = {}
    for split in ("train", "dev", "test"):
        for side in ("src", "tgt"):
            path = folder / f"{split}.{side}"
            path.write_text("".join(f"{split} {side} {i}\n" for i in range(5)), encoding="utf-8")
            paths[f"{split}_{side}"] = str(path)
    return DataConfig(**paths)  # type: ignore[arg-type]


def test_own_files_take_precedence_and_stop_at_train_pairs(tmp_path: Path) -> None:
    config = replace(_own(tmp_path), corpus="no such name")
    corpus = find_corpus(config)
    assert corpus.name == "files"
    assert list(corpus.pairs("train", 2, tmp_path, print)) == [
        ("train src 0", "train tgt 0"),
        ("train src 1", "train tgt 1"),
    ]
    assert len(list(corpus.pairs("test", None, tmp_path, print))) == 5


def test_without_test_files_dev_is_the_test(tmp_path: Path) -> None:
    corpus = find_corpus(replace(_own(tmp_path), test_src=None, test_tgt=None))
    assert next(corpus.pairs("test", None, tmp_path, print)) == ("dev src 0", "dev tgt 0")


@pytest.mark.parametrize("missing", ["train_src", "train_tgt", "dev_src", "dev_tgt", "test_src", "test_tgt"])
def test_an_incomplete_set_of_own_files_is_refused(tmp_path: Path, missing: str) -> None:
    config = replace(_own(tmp_path), **{missing: None})  # type: ignore[arg-type]
    with pytest.raises(UserError, match=f"--data.{missing.replace('_', '-')} is missing"):
        find_corpus(config)


def test_own_files_are_known_by_content_not_by_path(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = (find_corpus(_own(tmp_path / name)).sources(tmp_path, print) for name in "ab")
    assert [s.sha256 for s in first.values()] == [s.sha256 for s in second.values()]
    assert first != second


def test_train_pairs_must_be_positive() -> None:
    with pytest.raises(UserError, match="train_pairs must be at least 1, not 0"):
        find_corpus(DataConfig(train_pairs=0))


def test_own_text_says_its_languages_and_a_named_corpus_has_its_own(tmp_path: Path) -> None:
    assert find_corpus(_own(tmp_path)).languages is None
    assert find_corpus(replace(_own(tmp_path), languages="en-fr")).languages == "en-fr"
    with pytest.raises(UserError, match="multi30k-en-de has its own languages"):
        find_corpus(DataConfig(corpus="multi30k-en-de", languages="en-fr"))
    assert find_corpus(DataConfig(corpus="multi30k-en-de")).languages == "en-de"
    with pytest.raises(UserError, match="two codes, as in en-de"):
        find_corpus(replace(_own(tmp_path), languages="fr"))


# Downloads


class _Handler(BaseHTTPRequestHandler):
    """Serves /whole.gz; /half.gz, which breaks off; and /rest.gz, which breaks off unless a range is requested."""

    def do_GET(self) -> None:
        if self.path not in ("/whole.gz", "/half.gz", "/rest.gz"):
            self.send_error(404)
            return
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1]) if self.path == "/rest.gz" else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start:] if self.path == "/whole.gz" or start else CONTENT[:10])

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _no_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATA_MIRROR", raising=False)


def _everything_below(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_download_once_then_cache(server: str, tmp_path: Path) -> None:
    log: list[str] = []
    file = RemoteFile("corpus", f"{server}/whole.gz", SHA256)
    path = fetch(file, tmp_path, log.append)
    assert path.read_bytes() == CONTENT
    dead = replace(file, address="http://127.0.0.1:1/whole.gz")
    assert fetch(dead, tmp_path, log.append) == path
    assert log == [f"downloading {server}/whole.gz"]
    assert _everything_below(tmp_path) == ["whole.gz"]


def test_a_broken_download_goes_on_where_it_stopped(server: str, tmp_path: Path) -> None:
    file = RemoteFile("corpus", f"{server}/rest.gz", SHA256)
    with pytest.raises(UserError, match=r"10 of .* bytes arrived"):
        fetch(file, tmp_path, print)
    assert _everything_below(tmp_path) == ["rest.gz.part"]
    assert fetch(file, tmp_path, print).read_bytes() == CONTENT
    # A server without range requests sends the whole file again.
    (tmp_path / "corpus" / "whole.gz.part").write_bytes(b"something else")
    assert fetch(replace(file, address=f"{server}/whole.gz"), tmp_path, print).read_bytes() == CONTENT
    assert _everything_below(tmp_path) == ["rest.gz", "whole.gz"]


def test_wrong_bytes_are_refused_with_both_hashes(server: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"whole.gz has SHA-256 {SHA256}, not {'0' * 64}"):
        fetch(RemoteFile("corpus", f"{server}/whole.gz", "0" * 64), tmp_path, print)
    assert _everything_below(tmp_path) == []


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("http://127.0.0.1:1/gone.gz", "refused"),
        ("{server}/gone.gz", "404"),
        ("{server}/half.gz", f"10 of {len(CONTENT)} bytes|IncompleteRead"),
    ],
)
def test_a_failed_download_says_what_to_do(server: str, tmp_path: Path, address: str, why: str) -> None:
    file = RemoteFile("corpus", address.format(server=server), SHA256)
    with pytest.raises(UserError, match=why) as caught:
        fetch(file, tmp_path, print)
    for part in (file.address, "DATA_MIRROR", str(tmp_path / "corpus" / file.name)):
        assert part in str(caught.value)
    assert _everything_below(tmp_path) == (["half.gz.part"] if "half" in address else [])


def test_a_damaged_cache_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "corpus" / "whole.gz"
    path.parent.mkdir()
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(UserError, match=rf"{path} has SHA-256 [0-9a-f]{{64}}, not {SHA256}"):
        fetch(RemoteFile("corpus", "http://127.0.0.1:1/whole.gz", SHA256), tmp_path, print)


def test_the_mirror_comes_before_any_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = tmp_path / "mirror"
    for name, content in (("a", b"another corpus's file of this name"), ("deep/er", CONTENT)):
        (mirror / name).mkdir(parents=True)
        (mirror / name / "whole.gz").write_bytes(content)
    monkeypatch.setenv("DATA_MIRROR", str(mirror))
    file = RemoteFile("corpus", "http://127.0.0.1:1/whole.gz", SHA256)
    assert fetch(file, tmp_path / "downloads", print) == mirror / "deep/er/whole.gz"
    (mirror / "deep/er/whole.gz").unlink()
    with pytest.raises(UserError, match=rf"a/whole\.gz .* has SHA-256 [0-9a-f]{{64}}, not {SHA256}"):
        fetch(file, tmp_path / "downloads", print)
    monkeypatch.setenv("DATA_MIRROR", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"DATA_MIRROR=.*nowhere is not a folder"):
        fetch(file, tmp_path / "downloads", print)


def test_hosted_corpus_reads_what_it_fetched(server: str, tmp_path: Path) -> None:
    file = RemoteFile("corpus", f"{server}/whole.gz", SHA256)
    corpus = HostedCorpus("x", "free", "de", dict.fromkeys(SPLITS, (file, file)))
    assert list(corpus.pairs("dev", None, tmp_path, print)) == [("a man", "a man"), ("a dog", "a dog")]
    assert list(corpus.pairs("train", 1, tmp_path, print)) == [("a man", "a man")]


@pytest.mark.parametrize("text", ["", " \t", "\u200b", "\ufeff \u2581", "\u00a0\u3000\u2028", "\0\x85", "\u200d\u202e"])
def test_a_line_of_nothing_visible_is_blank(text: str) -> None:
    assert is_blank_line(text)
    assert not is_blank_line(text + "." + text)
