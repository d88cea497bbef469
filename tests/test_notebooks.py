"""The notebooks run from top to bottom, and hold the outputs of such a run."""

import ast
import importlib.util
import re
from itertools import groupby
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from command import ROOT

FILES = sorted((ROOT / "notebooks").glob("*.ipynb"))
SMALL = "STEPS, BATCH_SIZE, TEST_DIALOGUES, SUPERVISED_STEPS = 2, 8, 4, 1"
HUB = {"google/flan-t5-base", "facebook/roberta-hate-speech-dynabench-r4-target"}
HUB |= {"knkarthick/dialogsum"}


def load(path: Path) -> ModuleType:
    spec: Any = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def notebooks() -> ModuleType:
    return load(ROOT / "scripts" / "notebooks.py")


def cells_of(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def file(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.mark.slow  # tests/compat and test_python.py do the same without a kernel
@pytest.mark.parametrize("name", [f.stem for f in FILES])
def test_a_notebook_runs(name: str, notebooks: ModuleType, tmp_path: Path) -> None:
    done = notebooks.run(ROOT / "notebooks" / f"{name}.ipynb", tmp_path, SMALL)
    stored = notebooks.read(ROOT / "notebooks" / f"{name}.ipynb")
    place = notebooks.names_of(stored) + 1
    assert done.cells.pop(place).source == SMALL
    assert [kinds(cell) for cell in cells_of(done)] == [kinds(cell) for cell in cells_of(stored)]
    assert list(tmp_path.rglob("adapter_model.safetensors"))


def kinds(cell: Any) -> list[str]:
    # What a cell prints comes in one piece or in several: that is a matter of moments.
    shown = (output for output in cell.outputs if output.get("name") != "stderr")
    return [kind for kind, _ in groupby(output.output_type for output in shown)]


def test_outputs_are_those_of_one_whole_run(file: Path, notebooks: ModuleType) -> None:
    text, cells = file.read_text(encoding="utf8"), cells_of(notebooks.read(file))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {
        "stream",
        "display_data",
        "execute_result",
    }
    assert all(output.get("name", "stdout") == "stdout" for output in outputs)
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert any("text/html" in output.get("data", {}) for output in outputs)
    assert re.findall(r"(?:/home|/root|/tmp|/usr|/work)/|site-packages|\.venv", text) == []
    assert len(text) < 150_000


def test_one_cell_holds_all_names(file: Path, notebooks: ModuleType) -> None:
    notebook = notebooks.read(file)
    names = notebook.cells.pop(notebooks.names_of(notebook)).source
    assert set(re.findall(r'# "([^"]+)"', names)) >= HUB
    assert {"demo:policy", "demo:classifier", "demo:dialogues"} <= set(strings(names))
    rest = [text for cell in cells_of(notebook) for text in strings(cell.source)]
    assert [text for text in rest if text.startswith("demo:") or text in HUB] == []


def test_the_improvement_that_a_notebook_shows_is_real(file: Path, notebooks: ModuleType) -> None:
    cells = cells_of(notebooks.read(file))
    text = "".join(output.get("text", "") for cell in cells for output in cell.outputs)
    if found := re.search(r"difference: +-[.\d]+ \(-[.\d]+ to (-?[.\d]+)\)", text):
        assert float(found[1]) < 0
    else:
        assert "excludes zero: by this measure the policy is less toxic" in text


def strings(code: str) -> list[str]:
    nodes = ast.walk(ast.parse(re.sub(r"^%", "#", code, flags=re.MULTILINE)))
    return [x.value for x in nodes if isinstance(x, ast.Constant) and isinstance(x.value, str)]


def test_links_lead_somewhere(file: Path, notebooks: ModuleType) -> None:
    text = "\n".join(cell.source for cell in notebooks.read(file).cells)
    assert f"/notebooks/{file.name})" in text  # the link to Colab
    for link in re.findall(r"\]\((?!https:)([^)]+)\)", text):
        page, _, heading = link.partition("#")
        assert (file.parent / page).is_file(), link
        if heading:
            titles = re.findall(r"^#+ (.+)$", (file.parent / page).read_text("utf8"), re.MULTILINE)
            assert heading in [title.lower().replace(" ", "-") for title in titles], link


def test_the_site_shows_the_notebooks(file: Path) -> None:
    hooks = load(ROOT / "docs" / "hooks.py")
    page = hooks.as_markdown(file)
    assert "\n# Detoxify summaries" in page
    assert page.count("```") % 2 == 0
    assert "](../docs/" not in page
    assert ".ipynb)" not in page.replace(f"/{file.name})", "")
    assert '<img alt="curves" src="data:image/png;base64,' in page
    assert "<table>" in page  # which the site's style takes for its own
    menu = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf8"))["nav"]
    assert f"notebooks/{file.stem}.md" in str(menu)


def test_links_to_notebooks_become_links_to_their_pages() -> None:
    hooks = load(ROOT / "docs" / "hooks.py")
    text = "[1](../notebooks/1-a.ipynb), [2](../../notebooks/2-b.ipynb)"
    assert hooks.on_page_markdown(text) == "[1](notebooks/1-a.md), [2](../notebooks/2-b.md)"
