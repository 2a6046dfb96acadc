"""File type of a path, checked before anything opens it: opening a pipe without a writer blocks."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

# Predicates of the module "stat" for kinds that hold no data.
_KINDS = {
    stat.S_ISDIR: "a folder",
    stat.S_ISFIFO: "a pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}


def why_unreadable(path: Path | str) -> str | None:
    """Return the reason why ``path`` is not a readable file; None if it is one."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return "it links to a file that does not exist" if os.path.islink(path) else "there is no such file"
    except OSError as error:
        return "its symbolic links form a cycle" if error.errno == errno.ELOOP else f"{error.strerror}"
    except ValueError:
        return "a path cannot contain a null character"
    kind = next((name for is_kind, name in _KINDS.items() if is_kind(mode)), None)
    if kind:
        return f"it is {kind}, not a file"
    return None if os.access(path, os.R_OK) else "this user has no permission to read it"
