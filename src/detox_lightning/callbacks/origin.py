"""Where a file comes from: the command, the time, the versions."""

import re
import shlex
import sys
from datetime import datetime, timezone
from typing import Any

from detox_lightning.report.files import versions

SECRET_FLAG = re.compile(r"^--(?:.*[._])?(?:token|key|password|secret)$", re.IGNORECASE)
SECRET = re.compile(r"^(--(?:.*[._])?(?:token|key|password|secret)=).*", re.IGNORECASE)


def origin() -> dict[str, Any]:
    """Which command made something, when, and with what versions."""
    return {
        "command": command(sys.argv[1:]),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions(),
    }


def command(words: list[str]) -> str:
    """The command line that was given, without what is secret.

    Args:
        words: Its words after the program's name.
    """
    shown = [SECRET.sub(r"\1***", word) for word in words]
    for place, word in enumerate(shown[:-1]):
        if SECRET_FLAG.search(word):
            shown[place + 1] = "***"
    return shlex.join(["python", "-m", "detox_lightning", *shown])
