"""The small world the package ships: dialogues, a tiny summarizer, a tiny hate classifier."""

from pathlib import Path

from detox_lightning.errors import InputError, nearest

ASSETS = Path(__file__).parent / "assets"
SCHEME = "demo:"


def locate(name: str) -> str:
    """Turns ``demo:NAME`` into what the package ships; leaves any other name alone.

    Args:
        name: A hub id, a path, or ``demo:NAME``.

    Returns:
        A name that ``from_pretrained`` or ``load_dataset`` takes.

    Raises:
        InputError: If the package ships nothing of that name.
    """
    if not name.startswith(SCHEME):
        return name
    shipped = {SCHEME + path.name: path for path in sorted(ASSETS.glob("*"))}
    if name not in shipped:
        raise InputError(
            f"{name}: the package ships nothing of that name; it has {', '.join(shipped)}"
            + nearest(name, shipped)
        )
    return str(shipped[name])
