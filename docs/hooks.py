"""Hooks of ``mkdocs build``: they remove roles, and refuse pages that need a network."""

import re
from pathlib import Path
from typing import Any

ROLE = re.compile(r":(?:class|meth|func|data|attr|mod):(?=<code)")
LOADED = re.compile(
    r"<(?:script|img|iframe|source|use)\b[^>]*?\s(?:src|href)=[\"']?(?:https?:)?//[^>]*"
    r"|<link\b(?![^>]*rel=[\"']?(?:canonical|edit))[^>]*?href=[\"']?(?:https?:)?//[^>]*"
)
IMPORTED = re.compile(r"(?:@import\s+|url\()[\"']?(?:https?:)?//[^)\"']*")


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
