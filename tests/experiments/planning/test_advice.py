"""`plan` gives advice if settings do not suit the corpus, and none otherwise."""

from dataclasses import replace

from experiments import find
from experiments.planning.advice import advice


def given(experiment, pairs: int, batches: int, words: int = 15) -> list[str]:
    splits = {"train": {"source_tokens": words * pairs, "target_tokens": words * pairs}}
    return list(advice(experiment, splits, batches))


def test_little_text_gets_advice_that_ends_when_it_is_taken():
    small = find("small")
    told = given(small, pairs=3000, batches=15)
    assert len(told) == 4
    assert "seen 667 times" in told[0] and "--train.steps 900" in told[0]
    assert "--data.vocab-size 1800" in told[1] and "--model.dropout 0.3" in told[2]
    assert "--optimizer.warmup-steps 90" in told[3]
    taken = replace(
        small,
        model=replace(small.model, vocab_size=1800, dropout=0.3),
        data=replace(small.data, vocab_size=1800),
        train=replace(small.train, steps=900),
        optimizer=replace(small.optimizer, warmup_steps=90),
    )
    assert given(taken, pairs=3000, batches=15) == []


def test_the_presets_of_real_corpora_get_none():
    assert given(find("multi30k-tiny"), pairs=29_000, batches=450) == []
    assert given(find("wmt14-en-de-base"), pairs=4_500_000, batches=5000, words=28) == []
