"""Multi30k: image captions in English, German and French (Elliott et al., 2016)."""

from data.corpora.corpus import SplitName
from data.corpora.hosted import HostedCorpus
from data.fetch import RemoteFile

_MULTI30K = "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw"
_MULTI30K_SHA256 = {
    "train.en": "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f",
    "train.de": "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6",
    "train.fr": "622e75069e9f4c577425c4f277116ce66e63a2401c0a2312d90073cb12379a3c",
    "val.en": "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28",
    "val.de": "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a",
    "val.fr": "ca3106f1a72390591d25f6c45cb4cd39dec4cd3f123e099748a3ce5256c160e9",
    "test_2016_flickr.en": "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9",
    "test_2016_flickr.de": "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8",
    "test_2016_flickr.fr": "6d326e188d259fb1d04ac19eae3af956559b3a0b93d7635e56c90987c40c8b90",
    "test_2017_flickr.en": "76a444ee25172e72695cddb13ae4a3bda59430617be88e0bb46b60504f054074",
    "test_2017_flickr.de": "a2c89666db00c495cd8513b9d708d5a3acc205d7de312ef2bf5fb7ebc1540aee",
    "test_2017_flickr.fr": "3ba671ceb2299f3304ffafefea7a833d08632fbaf0ba18546f8a2ec2391af496",
}
_MULTI30K_STEMS: dict[SplitName, str] = {"train": "train", "dev": "val", "test": "test_2016_flickr"}


def multi30k(language: str) -> HostedCorpus:
    """The pairs of English and another language ("de", "fr")."""

    def file(stem: str, side: str) -> RemoteFile:
        name = f"{stem}.{side}"
        return RemoteFile("multi30k", f"{_MULTI30K}/{name}.gz", _MULTI30K_SHA256[name])

    def both(stem: str) -> tuple[RemoteFile, RemoteFile]:
        return file(stem, "en"), file(stem, language)

    return HostedCorpus(
        f"multi30k-en-{language}",
        "none stated by github.com/multi30k/dataset",
        f"en-{language}",
        {split: both(stem) for split, stem in _MULTI30K_STEMS.items()},
        {"test_2017_flickr": both("test_2017_flickr")},
    )
