"""The value head."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class ValueHead(nn.Module):
    """Linear from a hidden state to the expected return from there on, in float32, 0 at first."""

    def __init__(self, hidden_size: int):
        """Makes a head that says 0.

        Args:
            hidden_size: ``d`` of the decoder's hidden states.
        """
        super().__init__()
        self.linear = nn.Linear(hidden_size, 1, dtype=torch.float32)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def take(self, saved: dict[str, Tensor] | None) -> bool:
        """Goes on from a head that was trained before, if there is one and it is as wide.

        Args:
            saved: Its ``state_dict``; None: there is none.

        Returns:
            Whether it did.
        """
        own = {name: value.shape for name, value in self.state_dict().items()}
        if saved is None or {name: value.shape for name, value in saved.items()} != own:
            return False
        self.load_state_dict(saved)
        return True

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        # whoever casts a whole module: returns need more digits than that
        return super()._apply(lambda x: _keep_float32(x, fn(x)), recurse)

    def forward(self, hidden: Tensor) -> Tensor:
        """Values of positions.

        Args:
            hidden: ``[m, t, d]``, any precision.

        Returns:
            ``[m, t]`` float32.
        """
        with torch.autocast(hidden.device.type, enabled=False):
            return self.linear(hidden.float()).squeeze(-1)


def _keep_float32(before: Tensor, after: Tensor) -> Tensor:
    return before.to(after.device) if after.dtype != torch.float32 else after
