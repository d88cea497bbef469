"""Detoxify language models with PPO, LoRA and PyTorch Lightning.

``from detox_lightning import PPOModule, Trainer``: the names of ``_names.py`` load at first use.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from detox_lightning._names import *  # noqa: F403
else:

    def __getattr__(name: str) -> Any:
        if name == "__all__" or not name.startswith("_"):
            from detox_lightning import _names

            if name in ("__all__", *_names.__all__):
                return getattr(_names, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__getattr__("__all__")})
