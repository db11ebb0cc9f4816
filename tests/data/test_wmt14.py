"""WMT14 with the real builder of tensorflow-datasets, on small archives in the original formats; and the fallbacks."""

import gzip
import importlib.util
import io
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from data import corpora, grammar
from data.corpora.wmt14 import WMT14
from data.dataset import adopt, prepare
from data.fetch import sha256_of
from transformer.config import DataConfig, UserError
from transformer.registry import Registry

BUILDER = importlib.util.find_spec("tensorflow_datasets") and importlib.util.find_spec("tensorflow")
needs_builder = pytest.mark.skipif(not BUILDER, reason="needs the extra wmt14")
LANGUAGES = ("de", "fr")


def quiet(_: str) -> None:
    pass


def sentences(language: str, part: str, count: int) -> dict[str, list[str]]:
    """Pairs that name their archive and file; the grammar's German stands for any language."""
    pairs = list(grammar.pairs("train", count, seed=sum(part.encode())))
    return {
        "en": [f"{part} {language}: {a}" for a, _ in pairs],
        language: [f"{part} {language}: {b}" for _, b in pairs],
    }


PARTS = {
    language: {part: sentences(language, part, count) for part, count in counts.items()}
    for language, counts in {
        "de": {"europarl": 60, "crawl": 40, "news": 20, "newstest2013": 9, "newstest2014": 7},
        "fr": {"europarl": 50, "crawl": 30, "un": 25, "news": 10, "giga": 20, "newstest2013": 8, "newstest2014": 6},
    }.items()
}


def plain(lines: Iterable[str]) -> bytes:
    return "".join(line + "\n" for line in lines).encode()


def sgm(lines: Iterable[str], kind: str) -> bytes:
    segments = "".join(f'<seg id="{i}">{line}</seg>\n' for i, line in enumerate(lines, start=1))
    return f'<{kind} setid="newstest2014" srclang="any">\n<doc docid="d">\n{segments}</doc>\n</{kind}>\n'.encode()


def pack(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the six archives of the two pairs, small."""
    folder = tmp_path_factory.mktemp("archives")

    def bitext(part: str, stem: str) -> dict[str, bytes]:
        return {
            stem.format(language) + f".{side}": plain(lines)
            for language in LANGUAGES
            if part in PARTS[language]
            for side, lines in PARTS[language][part].items()
        }

    pack(folder / "training-parallel-europarl-v7.tgz", bitext("europarl", "training/europarl-v7.{}-en"))
    pack(folder / "training-parallel-commoncrawl.tgz", bitext("crawl", "commoncrawl.{}-en"))
    pack(folder / "training-parallel-nc-v9.tgz", bitext("news", "training/news-commentary-v9.{}-en"))
    pack(folder / "training-parallel-un.tgz", bitext("un", "un/undoc.2000.{}-en"))
    giga = {f"giga-fren.release2.fixed.{side}.gz": gzip.compress(plain(x)) for side, x in PARTS["fr"]["giga"].items()}
    pack(folder / "training-giga-fren.tar", giga)
    dev = {}
    for language in LANGUAGES:
        for side, lines in PARTS[language]["newstest2013"].items():
            dev[f"dev/newstest2013.{side}"] = plain(lines)
        test = PARTS[language]["newstest2014"]
        dev[f"dev/newstest2014-{language}en-src.{language}.sgm"] = sgm(test[language], "srcset")
        dev[f"dev/newstest2014-{language}en-ref.en.sgm"] = sgm(test["en"], "refset")
        # newstest2013 has the same English side for all languages: each test packs the one of its own language
        pack(folder / f"dev-{language}.tgz", dict(dev))
    return folder


def stand_in(monkeypatch: pytest.MonkeyPatch, corpus: WMT14) -> None:
    """Replaces the corpus of the same name."""
    monkeypatch.setattr(corpora, "CORPORA", Registry("data.corpus", corpora.CORPORA | {corpus.name: corpus}))


@pytest.fixture
def small(archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """CORPORA with the hashes of the small archives, and a folder with these archives under their public names."""
    given = tmp_path / "given"
    given.mkdir()
    for path in archives.glob("training-*"):
        (given / path.name).symlink_to(path)
    for language in LANGUAGES:
        corpus = corpora.CORPORA[f"wmt14-en-{language}"]
        assert isinstance(corpus, WMT14)
        files = tuple(
            replace(file, sha256=sha256_of(archives / (f"dev-{language}.tgz" if file.name == "dev.tgz" else file.name)))
            for file in corpus.archives
        )
        stand_in(monkeypatch, replace(corpus, archives=files))
    monkeypatch.delenv("DATA_MIRROR", raising=False)
    return given


def config(language: str) -> DataConfig:
    return DataConfig(corpus=f"wmt14-en-{language}", vocab_size=150, max_length=300, batch_tokens=1000, max_unknown=1.0)


def expected(language: str, split: str) -> set[tuple[str, str]]:
    """All pairs of a split: English, then the other language."""
    tests = {"dev": "newstest2013", "test": "newstest2014"}
    parts = [p for p in PARTS[language] if (p == tests[split] if split in tests else not p.startswith("newstest"))]
    return {pair for p in parts for pair in zip(PARTS[language][p]["en"], PARTS[language][p][language], strict=True)}


@needs_builder
@pytest.mark.parametrize("language", ["de", pytest.param("fr", marks=pytest.mark.slow)])
def test_the_real_builder_gives_all_pairs_from_english(
    language: str, small: Path, archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (small / "dev.tgz").symlink_to(archives / f"dev-{language}.tgz")
    monkeypatch.setenv("DATA_MIRROR", str(small))
    prepared = prepare(config(language), tmp_path / "data", quiet)
    assert len(prepared.train) == len(expected(language, "train"))
    for split in ("dev", "test"):
        pairs = zip(prepared.text(split, "source"), prepared.text(split, "target"), strict=True)  # type: ignore[arg-type]
        assert set(pairs) == expected(language, split)
    train = {
        tuple(prepared.tokenizer.decode([ids.tolist() for ids in prepared.train[i]]))
        for i in range(len(prepared.train))
    }
    assert train == expected(language, "train")
    # Remove the archives: the second call needs neither them nor the builder.
    monkeypatch.delenv("DATA_MIRROR")
    assert prepare(config(language), tmp_path / "data", quiet).hash == prepared.hash
    assert "tensorflow" not in sys.modules and "tensorflow_datasets" not in sys.modules


@pytest.mark.slow
@needs_builder
def test_archives_from_a_folder_and_a_corrupt_one_among_them(small: Path, archives: Path, tmp_path: Path) -> None:
    (small / "dev.tgz").write_bytes((archives / "dev-de.tgz").read_bytes()[:-20])  # half a download
    with pytest.raises(UserError, match=r"dev\.tgz .* has SHA-256 .*, not"):
        adopt(config("de"), small, tmp_path / "data", quiet)
    (small / "dev.tgz").unlink()
    (small / "dev.tgz").symlink_to(archives / "dev-de.tgz")
    adopt(config("de"), small, tmp_path / "data", quiet)
    assert len(prepare(config("de"), tmp_path / "data", quiet).test) == 7


@pytest.mark.slow
@needs_builder
def test_what_the_builder_cannot_read_is_one_line(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (small / "dev.tgz").write_bytes(b"no archive")
    corpus = corpora.CORPORA["wmt14-en-de"]
    assert isinstance(corpus, WMT14)
    files = tuple(
        replace(f, sha256=sha256_of(small / "dev.tgz")) if f.name == "dev.tgz" else f for f in corpus.archives
    )
    stand_in(monkeypatch, replace(corpus, archives=files))
    with pytest.raises(UserError, match="tensorflow-datasets could not build wmt14_translate/de-en: ") as caught:
        adopt(config("de"), small, tmp_path / "data", quiet)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "data" / "downloads" / "wmt14-en-de").exists()


def test_a_dead_address_names_the_fallback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATA_MIRROR", raising=False)
    corpus = corpora.CORPORA["wmt14-en-de"]
    assert isinstance(corpus, WMT14)
    dead = tuple(replace(f, address=f"http://127.0.0.1:1/{f.name}") for f in corpus.archives)
    stand_in(monkeypatch, replace(corpus, archives=dead))
    with pytest.raises(UserError, match=r"cannot download .*put the file at .*or set DATA_MIRROR"):
        prepare(config("de"), tmp_path / "data", quiet)


def write_text(folder: Path, language: str) -> None:
    folder.mkdir()
    for split in ("train", "dev", "test"):
        pairs = sorted(expected(language, split))
        (folder / f"{split}.en").write_bytes(plain(a for a, _ in pairs))
        (folder / f"{split}.{language}").write_bytes(plain(b for _, b in pairs))


def test_plain_text_from_a_folder(small: Path, tmp_path: Path) -> None:
    write_text(tmp_path / "text", "fr")
    adopt(config("fr"), tmp_path / "text", tmp_path / "data", quiet)
    prepared = prepare(config("fr"), tmp_path / "data", quiet)
    assert len(prepared.train) == len(expected("fr", "train"))
    assert prepared.manifest["sources"]["test.target"]["name"] == "test.fr, plain text in text"
    with pytest.raises(UserError, match="already exists"):
        adopt(config("fr"), tmp_path / "text", tmp_path / "data", quiet)


def test_text_that_is_not_parallel_is_refused(small: Path, tmp_path: Path) -> None:
    write_text(tmp_path / "text", "de")
    (tmp_path / "text" / "train.de").write_text("one line\n")
    with pytest.raises(UserError, match=r"train\.en has 120 lines but .*train\.de has 1"):
        adopt(config("de"), tmp_path / "text", tmp_path / "data", quiet)
    assert not (tmp_path / "data" / "downloads" / "wmt14-en-de").exists()


def test_parquet_with_the_layout_of_the_hub(small: Path, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    folder = tmp_path / "hub"
    folder.mkdir()
    for split, ours in (("train", "train"), ("validation", "dev"), ("test", "test")):
        rows = [{"translation": {"de": b, "en": a}} for a, b in sorted(expected("de", ours))]
        half = len(rows) // 2
        for number, part in enumerate((rows[:half], rows[half:])):
            table = pyarrow.Table.from_pylist(part)
            parquet.write_table(table, folder / f"{split}-{number:05}-of-00002.parquet")
    adopt(config("de"), folder, tmp_path / "data", quiet)
    prepared = prepare(config("de"), tmp_path / "data", quiet)
    pairs = zip(prepared.text("test", "source"), prepared.text("test", "target"), strict=True)
    assert set(pairs) == expected("de", "test")
    (folder / "test-00001-of-00002.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match=r"test-00001-of-00002\.parquet cannot be read"):
        adopt(config("de"), folder, tmp_path / "other", quiet)


def test_a_folder_with_none_of_these_says_what_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"contains neither train\.en, .* nor parquet files nor the archives \(t"):
        adopt(config("de"), tmp_path, tmp_path / "data", quiet)
    with pytest.raises(UserError, match="is not a folder"):
        adopt(config("de"), tmp_path / "none", tmp_path / "data", quiet)
    with pytest.raises(UserError, match="grammar is not made from a folder"):
        adopt(DataConfig(corpus="grammar"), tmp_path, tmp_path / "data", quiet)


def test_no_room_for_the_archives_is_said_before_anything_is_unpacked(
    small: Path, archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (small / "dev.tgz").symlink_to(archives / "dev-de.tgz")
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(UserError, match="not enough disk space for the unpacked archives"):
        adopt(config("de"), small, tmp_path / "data", quiet)


def test_training_imports_no_tensorflow() -> None:
    code = "import sys, experiments.cli; assert not {'tensorflow', 'tensorflow_datasets', 'pyarrow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
