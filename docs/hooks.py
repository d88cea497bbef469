"""What ``mkdocs build`` does besides: roles read as code, and nothing may need a network."""

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
    """Takes the roles off that docstrings have for other programs: ``:class:`GAE```."""
    return ROLE.sub("", html)


def on_post_build(config: Any) -> None:
    """Looks through what was built.

    Raises:
        SystemExit: If a page or a style loads something from another place.
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
