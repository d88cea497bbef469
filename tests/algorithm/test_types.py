"""Rows and batches of experience."""

import torch

from detox_lightning.algorithm.types import Experience


def experience(rows: int) -> Experience:
    return Experience(
        *(torch.arange(rows)[:, None] + 10 * i for i in range(len(Experience._fields)))
    )


def test_rows_keep_together() -> None:
    picked = experience(4).rows(torch.tensor([2, 0]))
    for number, field in enumerate(picked):
        assert field.tolist() == [[2 + 10 * number], [10 * number]]


def test_batches_are_consecutive_slices_of_an_order() -> None:
    order = torch.tensor([3, 1, 0, 2, 4])
    batches = list(experience(5).batches(order, 2, torch.tensor([3, 1, 2, 1, 2])))
    assert [batch.prompt_ids.flatten().tolist() for batch in batches] == [[3, 1], [0, 2], [4]]
