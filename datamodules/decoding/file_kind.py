"""What lies at a path, asked before anything opens it: a pipe without a writer would be waited for without an end."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

# Kinds that are no data, by the question of the module "stat" that knows them.
_KINDS = {
    stat.S_ISDIR: "a folder",
    stat.S_ISFIFO: "a pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}


def why_unreadable(path: Path | str) -> str | None:
    """Why this is no file that can be read; None if it is one."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return "it links to a file that is not there" if os.path.islink(path) else "there is no such file"
    except OSError as error:
        return "its symbolic links go in a circle" if error.errno == errno.ELOOP else f"{error.strerror}"
    except ValueError:
        return "a path cannot hold the character 0"
    kind = next((name for is_kind, name in _KINDS.items() if is_kind(mode)), None)
    if kind:
        return f"it is {kind}, not a file"
    return None if os.access(path, os.R_OK) else "it may not be read by this user"
