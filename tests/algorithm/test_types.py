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
    batches = list(experience(5).batches(order, 2, torch.ones(5, dtype=torch.int)))
    assert [batch.prompt_ids.flatten().tolist() for batch in batches] == [[3, 1], [0, 2], [4]]


def test_batches_are_as_wide_as_their_longest_response() -> None:
    wide = Experience(*(torch.arange(12.0).view(3, 4) + i for i in range(len(Experience._fields))))
    first, second = wide.batches(torch.tensor([2, 0, 1]), 2, torch.tensor([1, 4, 3]))
    assert first.prompt_ids.shape == first.prompt_mask.shape == (2, 4)
    assert {tuple(field.shape) for field in first[2:]} == {(2, 3)}
    assert first.response_ids.tolist() == [[10, 11, 12], [2, 3, 4]]
    assert {tuple(field.shape) for field in second} == {(1, 4)}
