"""Plain values of what a configuration makes, for checkpoints and comparisons."""

import dataclasses
from collections.abc import Mapping
from typing import Any


def plain(value: Any) -> Any:
    """Turns dataclasses into dictionaries and numbers of restricted types into plain numbers.

    What has no plain form (a function) is left out of dictionaries and becomes its text elsewhere.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain({f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items() if not callable(item)}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value if value is None or hasattr(value, "untyped_storage") else str(value)
