"""Ends responses at stop strings, which may begin and end inside tokens."""

from bisect import bisect_left
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

CHECK_EVERY = 8  # steps; texts are made on the host, which waits for a GPU


class StopStrings:
    """Finds where the responses of one batch end by a stop string.

    Args:
        strings: The stop strings.
        decode: Makes texts of tokens ``[r, t]`` that answer the prompts of rows ``[r]``.

    Attributes:
        lengths: Tokens of each response that ended so, by its row. The last completes the string.
    """

    def __init__(self, strings: Sequence[str], decode: Callable[[Tensor, Tensor], list[str]]):
        self.strings, self.decode = strings, decode
        self.longest = max(len(string.encode()) for string in strings)  # a token has a byte
        self.lengths: dict[int, int] = {}

    def cut(self, text: str) -> str:
        """Returns a text up to its first stop string."""
        return min((text.partition(string)[0] for string in self.strings), key=len)

    def ended(self, responses: Tensor, rows: Tensor, whole: bool = False) -> Tensor:
        """``[r]``, True where a row of responses ``[b, t]`` has ended.

        Unless ``whole``, a stop string is only looked for in the tokens since the last check.
        """
        start = 0 if whole else max(0, responses.shape[1] - CHECK_EVERY - self.longest)
        texts = self.decode(responses[rows, start:], rows)
        for row, text in zip(rows.tolist(), texts, strict=True):
            if row not in self.lengths and self.cut(text) != text:
                self._locate(responses[row], row)
        found = [row in self.lengths for row in rows.tolist()]
        return torch.tensor(found, device=responses.device)

    def limited(self, responses: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """``[b]`` lengths up to stop strings in all responses ``[b, t]``; and which have one."""
        stopped = self.ended(responses, torch.arange(len(lengths), device=lengths.device), True)
        found = [self.lengths.get(row, length) for row, length in enumerate(lengths.tolist())]
        return torch.tensor(found, device=lengths.device), stopped

    def _locate(self, ids: Tensor, row: int) -> None:
        """Notes the first length at which the text of a row's tokens ``[t]`` has a stop string."""
        place = torch.tensor([row], device=ids.device)

        def has_one(length: int) -> bool:
            (text,) = self.decode(ids[None, :length], place)
            return self.cut(text) != text

        shorter = bisect_left(range(1, len(ids) + 1), True, key=has_one)
        if shorter < len(ids):
            self.lengths[row] = shorter + 1
