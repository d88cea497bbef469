from types import SimpleNamespace
from typing import Any

import pytest

from detox_lightning.data.loaders import EpochSampler, Loaders
from detox_lightning.errors import InputError


def order(epoch: int = 0, seed: int = 3, **options: Any) -> list[int]:
    sampler = EpochSampler(**{"rows": 11, "seed": seed, **options})
    sampler.set_epoch(epoch)
    return list(sampler)


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    assert order() == order()
    assert sorted(order()) == list(range(11))
    assert len({tuple(order(epoch, seed)) for epoch in range(3) for seed in range(3)}) == 9


def test_the_order_stays_what_it_was() -> None:
    """Checkpoints hold a place in this order: it may not change between versions."""
    assert order(0) == [4, 10, 9, 1, 5, 2, 6, 8, 0, 7, 3]
    assert order(1) == [3, 9, 8, 6, 1, 4, 0, 5, 10, 7, 2]


def test_ranks_share_one_order() -> None:
    first, second = (order(num_replicas=2, rank=rank) for rank in range(2))
    assert len(first) == len(second) == 5
    # two processes with batch 1 see in each step what one with batch 2 sees
    assert [row for pair in zip(first, second, strict=True) for row in pair] == order()[:10]


def test_a_resume_skips_in_one_epoch_only() -> None:
    # three of each rank's
    sampler = EpochSampler(11, 3, num_replicas=2, rank=1, epoch=4, used_rows=6)
    # before Lightning's `set_epoch`: workers fetch that early
    assert list(sampler) == order(4, num_replicas=2, rank=1)[3:]
    assert len(sampler) == 5
    sampler.set_epoch(5)
    assert list(sampler) == order(5, num_replicas=2, rank=1)


def processes(world: int, rank: int) -> Any:
    return SimpleNamespace(world_size=world, global_rank=rank, state=SimpleNamespace(fn="fit"))


def test_loaders_split_over_processes() -> None:
    loaders = Loaders(batch_size=2, eval_batch_size=3, num_workers=0, seed=3)
    rows: Any = list(range(11))
    train = loaders.train(rows, list, processes(2, 1))
    assert len(train) == 2  # 5 rows of this process: the odd one is dropped
    share = order(num_replicas=2, rank=1)
    assert list(train) == [share[:2], share[2:4]]
    assert list(loaders.evaluation(rows, list, processes(2, 1))) == [[1, 3, 5], [7, 9]]
    assert list(loaders.evaluation(rows, list, None))[-1] == [9, 10]


def test_evaluation_draws_each_row_once() -> None:
    rows: Any = list(range(7))
    loaders = Loaders(1, None, 0, 3)
    shares = [loaders.evaluation(rows, list, processes(3, rank)) for rank in range(3)]
    assert [list(share) for share in shares] == [[[0], [3], [6]], [[1], [4]], [[2], [5]]]
    assert [len(share) for share in shares] == [3, 2, 2]


def test_the_seed_is_that_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "3")
    rows: Any = list(range(11))
    loaders = Loaders(11, None, 0, None)
    assert list(loaders.train(rows, list, None)) == [order(seed=3)]
    assert loaders.state(None) == {
        "epoch": 0,
        "batches": 0,
        "seed": 3,
        "batch_size": 11,
        "processes": 1,
    }


def test_too_few_rows_are_named() -> None:
    loaders = Loaders(8, None, 0, 0)
    with pytest.raises(InputError) as caught:
        loaders.train([1] * 11, list, processes(2, 0))  # type: ignore[arg-type]
    assert str(caught.value) == (
        "--data.batch_size=8: the 11 training rows give each of 2 processes 5, "
        "less than one batch; lower it or give more rows"
    )
    with pytest.raises(InputError) as caught:
        loaders.evaluation([1], list, processes(2, 0))  # type: ignore[arg-type]
    assert str(caught.value) == (
        "1 rows to evaluate are too few for 2 processes: give more rows "
        "(--data.num_eval_samples) or fewer processes (--trainer.devices)"
    )


def test_a_resume_in_other_terms_warns() -> None:
    state = {"epoch": 2, "batches": 3, "seed": 3, "batch_size": 4, "processes": 1}
    loaders = Loaders(2, None, 0, 5)
    with pytest.warns(UserWarning, match="seed 3 is now 5, batch_size 4 is now 2, processes 1 is"):
        loaders.load(state, processes(2, 0))
    assert (loaders.epoch, loaders.batches) == (2, 3)


@pytest.mark.filterwarnings("error")
def test_a_resume_in_the_same_terms_is_silent() -> None:
    state = {"epoch": 2, "batches": 3, "seed": 3, "batch_size": 4, "processes": 1}
    Loaders(4, None, 0, 3).load(state, None)
    # other jobs than fit read the checkpoint's weights only
    testing = Loaders(4, None, 0, 7)
    testing.load(state, SimpleNamespace(state=SimpleNamespace(fn="test")))  # type: ignore[arg-type]
    assert testing.batches == 0
