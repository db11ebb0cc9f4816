from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer.checkpoint import Checkpoints, average, load, read_meta, saved_steps
from transformer.config import Experiment, TrainConfig, UserError
from transformer.train import init_state


@pytest.fixture(scope="module")
def state(config):
    experiment = Experiment("test", model=replace(config, num_layers=1), data=small_data(), train=TrainConfig())
    return jax.jit(lambda: init_state(experiment))()


def small_data():
    from transformer.config import DataConfig

    return DataConfig(vocab_size=20)


def saved(directory, state, losses, keep=3):
    """Checkpoints at steps 1, 2, ... whose parameters are `state`'s plus the step's number."""
    checkpoints = Checkpoints(directory, keep)
    for number, loss in enumerate(losses, start=1):
        params = jax.tree.map(lambda x, n=number: x + n, state.params)
        checkpoints.save(state._replace(step=jnp.array(number), params=params), {"dev_loss": loss, "number": number})
    checkpoints.wait()
    return checkpoints


def assert_same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def test_what_is_saved_comes_back_bit_for_bit(tmp_path, state):
    saved(tmp_path, state, [1.0]).close()
    restored, meta = Checkpoints(tmp_path).restore_state(state)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert_same(restored.params, jax.tree.map(lambda x: x + 1, state.params))
    assert_same(restored.opt_state, state.opt_state)
    assert restored.step == 1 and {"dev_loss": 1.0, "number": 1}.items() <= meta.items()
    assert read_meta(tmp_path, "last")["number"] == 1


def test_an_empty_directory_has_nothing_to_restore(tmp_path, state):
    assert Checkpoints(tmp_path).restore_state(state) is None
    with pytest.raises(UserError, match="no checkpoint"):
        load(tmp_path, "last", 3, state.params)
    with pytest.raises(UserError, match="no checkpoint"):
        read_meta(tmp_path, "last")


def test_the_newest_and_the_best_are_kept(tmp_path, state):
    saved(tmp_path, state, [5.0, 1.0, 4.0, 3.0, 2.0, 6.0]).close()
    assert saved_steps(tmp_path) == [2, 4, 5, 6]
    assert load(tmp_path, "best", 3, state.params).steps == [2]
    assert load(tmp_path, "last", 3, state.params).steps == [6]
    assert load(tmp_path, "4", 3, state.params).steps == [4]
    with pytest.raises(UserError, match=r"no checkpoint '3'.*last, best, average, 2, 4, 5, 6"):
        load(tmp_path, "3", 3, state.params)


def test_average_is_the_mean_of_the_newest(tmp_path, state):
    saved(tmp_path, state, [5.0, 1.0, 4.0, 3.0, 2.0, 6.0]).close()
    loaded = load(tmp_path, "average", 3, state.params)
    assert loaded.steps == [4, 5, 6]  # not 2, which is kept because it is the best
    for got, start in zip(jax.tree.leaves(loaded.params), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_allclose(got, start + 5, rtol=1e-6)


def test_the_average_of_one_is_itself(state):
    assert_same(average([state.params]), state.params)


def spoil(checkpoint, damage):
    if damage == "parameters":
        files = [f for f in (checkpoint / "params").rglob("*") if f.is_file()]
        largest = max(files, key=lambda f: f.stat().st_size)
        largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
    elif damage == "everything":
        for file in [f for f in checkpoint.rglob("*") if f.is_file()]:
            file.unlink()
    else:
        (checkpoint / damage).write_text("{")


@pytest.mark.parametrize("damage", ["parameters", "everything", "meta/metadata"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_says_so(tmp_path, state, damage):
    saved(tmp_path, state, [3.0, 2.0, 1.0]).close()
    spoil(tmp_path / "3", damage)
    (tmp_path / "unreadable-3").mkdir()  # an earlier one
    messages: list[str] = []
    checkpoints = Checkpoints(tmp_path, log=messages.append)
    restored, meta = checkpoints.restore_state(state)
    assert restored.step == 2 and meta["number"] == 2
    assert len(messages) == 1 and "checkpoint 3 cannot be read" in messages[0]
    assert (tmp_path / "unreadable-3-2" / "params").is_dir()  # set aside, not deleted
    # The run resumes, and can write step 3 again.
    checkpoints.save(restored._replace(step=jnp.array(3)), {"dev_loss": 0.5, "number": 3})
    checkpoints.wait()
    assert checkpoints.steps() == [1, 2, 3] and load(tmp_path, "best", 3, state.params).steps == [3]


def test_what_is_said_beside_the_arrays_is_checked_too(tmp_path, state):
    saved(tmp_path, state, [3.0, 2.0]).close()
    path = tmp_path / "2" / "meta" / "metadata"
    content = path.read_text()
    for damaged in (
        content.replace('"number": 2', '"number": 3'),
        content.replace("rest", "pest"),
        "{}",
        "[" * 200_000,
    ):
        assert damaged != content
        path.write_text(damaged)
        with pytest.raises(UserError, match=r"2/meta/metadata cannot be read"):
            read_meta(tmp_path, "last")
        with pytest.raises(UserError, match=r"2.* cannot be read"):
            load(tmp_path, "last", 3, state.params)
    checkpoints = Checkpoints(tmp_path, log=lambda line: None)
    restored, meta = checkpoints.restore_state(state)
    assert restored.step == 1 and meta["number"] == 1


def test_the_average_is_of_those_that_were_validated(tmp_path, state):
    """A checkpoint of a preemption is the newest, but is not averaged, unless it is the only one."""
    saved(tmp_path, state, [3.0, 2.0, None]).close()
    assert load(tmp_path, "average", 3, state.params).steps == [1, 2]
    assert load(tmp_path, "last", 3, state.params).steps == [3]
    assert read_meta(tmp_path, "average")["number"] == 2
    saved(tmp_path / "preempted", state, [None]).close()
    assert load(tmp_path / "preempted", "average", 3, state.params).steps == [1]


def test_another_shape_is_told_by_its_name(tmp_path, state, config):
    saved(tmp_path, state, [1.0]).close()
    experiment = Experiment("test", model=replace(config, d_ff=config.d_ff + 8), data=small_data())
    wider = init_state(experiment)
    found = rf"its decoder\.0\.feed_forward\.inner\.bias is \[{config.d_ff}\], this model's is \[{config.d_ff + 8}\]"
    with pytest.raises(UserError, match=found):
        load(tmp_path, "last", 3, wider.params)
    with pytest.raises(UserError, match=found):
        Checkpoints(tmp_path).restore_state(wider)
    deeper = init_state(replace(experiment, model=replace(config, num_layers=config.num_layers + 1)))
    with pytest.raises(UserError, match=r"decoder\.\d\.\S+ is missing, this model's is \["):
        load(tmp_path, "last", 3, deeper.params)


def test_which_are_kept_does_not_depend_on_the_steps_between_them(tmp_path, state):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step, loss in ((7, 1.0), (14, 3.0), (20, None), (21, 2.5), (24, 2.0), (25, None)):
        checkpoints.save(state._replace(step=jnp.array(step)), {"dev_loss": loss})
        checkpoints.wait()
    checkpoints.close()
    assert saved_steps(tmp_path) == [7, 21, 24, 25]  # the best, two validated ones, the newest
    again = Checkpoints(tmp_path, keep=2)
    again.save(state._replace(step=jnp.array(26)), {"dev_loss": 5.0})
    again.close()
    assert saved_steps(tmp_path) == [7, 24, 26]


def test_a_checkpoint_under_the_number_of_another_step_is_not_used(tmp_path, state):
    saved(tmp_path, state, [3.0, 2.0]).close()
    (tmp_path / "2").rename(tmp_path / "9")
    checkpoints = Checkpoints(tmp_path, log=lambda line: None)
    restored, _ = checkpoints.restore_state(state)
    assert restored.step == 1 and not (tmp_path / "9").exists()


def test_a_save_that_would_not_happen_is_refused(tmp_path, state):
    checkpoints = saved(tmp_path, state, [3.0, 2.0])
    with pytest.raises(UserError, match="already has a checkpoint of step 1 or later"):
        checkpoints.save(state._replace(step=jnp.array(1)), {"dev_loss": 1.0})


def test_only_a_plain_number_is_a_step(tmp_path):
    for name in ("3", "004", "٤", "5x", "-6", "7.orbax-checkpoint-tmp"):
        (tmp_path / name).mkdir()
    assert saved_steps(tmp_path) == [3]


def test_when_none_can_be_read_all_stay_where_they_are(tmp_path, state):
    saved(tmp_path, state, [2.0, 1.0]).close()
    for step in ("1", "2"):
        spoil(tmp_path / step, "parameters")
    with pytest.raises(UserError, match=r"no checkpoint in .* can be read"):
        Checkpoints(tmp_path).restore_state(state)
    assert saved_steps(tmp_path) == [1, 2]


@pytest.mark.parametrize("damage", ["parameters", "everything", "meta/metadata"])
def test_loading_a_damaged_checkpoint_to_translate_is_refused_by_name(tmp_path, state, damage):
    saved(tmp_path, state, [2.0, 1.0]).close()
    spoil(tmp_path / "2", damage)
    with pytest.raises(UserError, match=r"2.* cannot be read"):
        load(tmp_path, "last", 3, state.params)
    assert load(tmp_path, "1", 3, state.params).steps == [1]


def test_reading_leaves_a_checkpoint_that_is_being_written_alone(tmp_path, state):
    saved(tmp_path, state, [2.0]).close()
    unfinished = tmp_path / "2.orbax-checkpoint-tmp"
    unfinished.mkdir()
    load(tmp_path, "average", 3, state.params)
    read_meta(tmp_path, "average")
    assert unfinished.is_dir()
    with pytest.raises(UserError, match="no checkpoint"):
        read_meta(tmp_path / "elsewhere", "last")
    assert not (tmp_path / "elsewhere").exists()
