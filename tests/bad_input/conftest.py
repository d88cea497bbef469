"""A folder with a recipe that works, for cases to spoil."""

from pathlib import Path

import datasets
import pytest

from bad_input.cases import Place
from command import tiny_recipe


@pytest.fixture
def place(
    tmp_path: Path, tiny_t5: str, tiny_classifier: str, monkeypatch: pytest.MonkeyPatch
) -> Place:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    recipe = tiny_recipe(tmp_path, tiny_t5, tiny_classifier)
    return Place(tmp_path, recipe, tiny_t5, tiny_classifier)
