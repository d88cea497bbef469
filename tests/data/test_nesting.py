import io
import json

import pytest

from detox_lightning.data import text_files
from detox_lightning.data.text_files import find_deeper


def find(text: str, limit: int = 3) -> int | None:
    return find_deeper(io.BytesIO(text.encode()), limit)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1 << 20])
def test_levels_are_counted_outside_of_texts(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "CHUNK_BYTES", size)
    assert find('[[["[[[["]]]\n[[[1], {"a": 1}]]') is None
    assert find('{"a": 1}\n\n{"a":\n[[{"b": 1}]]}\n') == 4
    for text in ['[[[["', '\\"[[[[', "\\\\", "\\", "\n[[[[", '"\\\\"']:
        line = json.dumps({"a": [{"b": text}]}) + "\n"
        assert find(line * 3) is None
        assert find(line * 3 + "[" * 4) == 4


def test_nothing_is_no_deep_nesting() -> None:
    assert find("") is None
    assert find("no brackets") is None
