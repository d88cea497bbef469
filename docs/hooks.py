"""Hooks of ``mkdocs build``: pages of notebooks, no roles, and no pages that need a network."""

import json
import re
from pathlib import Path
from typing import Any

ROLE = re.compile(r":(?:class|meth|func|data|attr|mod):(?=<code)")
LOADED = re.compile(
    r"<(?:script|img|iframe|source|use)\b[^>]*?\s(?:src|href)=[\"']?(?:https?:)?//[^>]*"
    r"|<link\b(?![^>]*rel=[\"']?(?:canonical|edit))[^>]*?href=[\"']?(?:https?:)?//[^>]*"
)
IMPORTED = re.compile(r"(?:@import\s+|url\()[\"']?(?:https?:)?//[^)\"']*")


def on_files(files: Any, config: Any) -> Any:
    """Adds a page for each notebook, which lies outside of the documents."""
    from mkdocs.structure.files import File

    for notebook in sorted((Path(config["docs_dir"]).parent / "notebooks").glob("*.ipynb")):
        page = f"notebooks/{notebook.stem}.md"
        files.append(File.generated(config, page, content=as_markdown(notebook)))
    return files


def as_markdown(notebook: Path) -> str:
    """Returns the page of a notebook: its text, its code, and what the code showed."""
    parts = ["---\nhide: [toc]\n---"]
    for cell in json.loads(notebook.read_text(encoding="utf8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            links = re.sub(r"\(([\w-]+)\.ipynb\)", r"(\1.md)", source)
            parts.append(links.replace("(../docs/", "(../"))
        else:
            parts.append(f"```python\n{source}\n```")
            parts += map(_shown, cell["outputs"])
    return "\n\n".join(parts)


def _shown(output: dict[str, Any]) -> str:
    shown = {kind: "".join(text) for kind, text in output.get("data", {}).items()}
    if picture := shown.get("image/png"):
        return f'<img alt="curves" src="data:image/png;base64,{picture.strip()}">'
    text = "".join(output.get("text", ())) or shown["text/plain"]
    table = re.sub(
        r"<style.*?</style>| border=.*?(?=>)", "", shown.get("text/html", ""), flags=re.S
    )
    return table or f"```text\n{text.strip()}\n```"


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    """Leads links from the documents to notebooks to their pages."""
    return re.sub(r"\(\.\./((?:\.\./)*notebooks/[\w-]+)\.ipynb\)", r"(\1.md)", markdown)


def on_page_content(html: str, **kwargs: Any) -> str:
    """Removes the roles of docstrings, such as the one in ``:class:`GAE```."""
    return ROLE.sub("", html)


def on_post_build(config: Any) -> None:
    """Checks the built site.

    Raises:
        SystemExit: If a page or a style sheet loads something from another server.
    """
    site = Path(config["site_dir"])
    found = [
        f"{file.relative_to(site)}: {match[0]}"
        for kind, pattern in (("html", LOADED), ("css", IMPORTED))
        for file in sorted(site.rglob(f"*.{kind}"))
        for match in pattern.finditer(file.read_text(encoding="utf8"))
    ]
    if found:
        raise SystemExit("error: the site must need no network, but " + "; ".join(found))
