"""Writes docs/licenses.md: the licences of the installed runtime dependencies.

``make licenses`` runs it in an environment with the pinned versions.
"""

import re
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from textwrap import fill

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
COPYLEFT = re.compile(r"GPL|MPL|EPL|CDDL|EUPL|Mozilla|Affero", re.IGNORECASE)
GPU = re.compile("nvidia-|cuda-|triton")  # dependencies of torch's GPU builds
HEAD = """\
# Licences

This page lists the packages that `pip install detox-lightning` installs on Linux, in the versions
of `constraints.txt`, with the licence that each declares. CUDA's libraries (under NVIDIA's terms)
are left out. `make licenses` writes this page.

| package | version | licence |
|---|---|---|
"""
FOOT = (
    "Copyleft, in part or in whole: {found}. This package uses them unchanged and ships none of "
    "them. The Mozilla Public License covers only changes to its own files."
)


def declared() -> list[Requirement]:
    """Reads the dependencies of pyproject.toml; Python 3.10 has no TOML parser."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf8")
    (block,) = re.findall(r"^dependencies = \[(.*?)^\]$", text, re.MULTILINE | re.DOTALL)
    return [Requirement(line) for line in re.findall(r'"([^"]+)"', block)]


def runtime() -> dict[str, str]:
    """Returns names and versions of all runtime dependencies, without CUDA's libraries."""
    found: dict[str, str] = {}
    waiting, seen = declared(), set[tuple[str, frozenset[str]]]()
    while waiting:
        needed = waiting.pop()
        wanted = (needed.name, frozenset(needed.extras))
        try:
            held = distribution(needed.name)
        except PackageNotFoundError:  # a CUDA library that a CPU build doesn't install
            continue
        if wanted in seen or GPU.match(needed.name):
            continue
        seen.add(wanted)
        found[held.metadata["Name"]] = held.version.partition("+")[0]
        for further in map(Requirement, held.requires or []):
            extras = ("", *needed.extras)
            if not further.marker or any(further.marker.evaluate({"extra": e}) for e in extras):
                waiting.append(further)
    return found


def license_of(package: Distribution) -> str:
    """Returns a package's licence: its SPDX expression, else its classifiers, else a short text."""
    facts = package.metadata
    classifiers = [
        line.rpartition(" :: ")[2]
        for line in facts.get_all("Classifier") or []
        if line.startswith("License ::") and not line.endswith("OSI Approved")
    ]
    lines = (facts.get("License") or "").strip().splitlines()
    short = lines[0] if lines and len(lines[0]) < 60 else ""
    return facts.get("License-Expression") or ", ".join(classifiers) or short or "not stated"


def page() -> str:
    """Returns the page as Markdown."""
    versions = runtime()
    rows = {name: license_of(distribution(name)) for name in versions}
    names = sorted(rows, key=str.lower)
    table = [f"| {name} | {versions[name]} | {rows[name]} |" for name in names]
    found = ", ".join(f"{name} ({rows[name]})" for name in names if COPYLEFT.search(rows[name]))
    foot = fill(FOOT.format(found=found or "none"), 100, break_on_hyphens=False)
    return HEAD + "\n".join(table) + f"\n\n{foot}\n"


if __name__ == "__main__":
    (ROOT / "docs" / "licenses.md").write_text(page(), encoding="utf8")
