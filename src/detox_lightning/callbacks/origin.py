"""Where a file comes from: the command, the time, the versions."""

import re
import shlex
import sys
from datetime import datetime, timezone
from typing import Any

from detox_lightning.report.files import versions

SECRET_NAME = r"(?:token|key|password|secret)"
SECRET_FLAG = re.compile(rf"^--[\w.-]*{SECRET_NAME}$", re.IGNORECASE)
# a value after a name, in a flag or inside JSON, and what stands before the @ of an address
SECRETS = (
    re.compile(rf"({SECRET_NAME}[\"']?\s*[:=]\s*[\"']?)[^\"',}}\s]+", re.IGNORECASE),
    re.compile(r"(://)[^/@\s]+(?=@)"),
)


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
    shown = words
    for pattern in SECRETS:
        shown = [pattern.sub(r"\1***", word) for word in shown]
    for place, word in enumerate(words[:-1]):
        if SECRET_FLAG.search(word):
            shown[place + 1] = "***"
    return shlex.join(["python", "-m", "detox_lightning", *shown])
