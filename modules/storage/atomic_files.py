"""Atomic file writing: after an interruption at any time a file is either complete or unchanged."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# Errors of the disk or the folder, as opposed to errors of the code that produces the content.
NAMES = ("EACCES", "EDQUOT", "EEXIST", "EFBIG", "EIO", "EISDIR", "ENOSPC", "ENOTDIR", "EPERM", "EROFS")
UNWRITABLE = {getattr(errno, name) for name in NAMES}


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Temporary path beside ``path`` that replaces it, flushed to the disk, when the block ends without an exception.

    Missing folders are created. After an exception the temporary file is removed and an older ``path`` is kept.

    Raises:
        ValueError: If the disk is full or the folder cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    except Exception as error:
        if problem := disk_error(error):
            raise unwritable(path, problem) from error
        raise
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8; see :func:`atomic_write`."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def disk_error(error: BaseException | None) -> str | None:
    """Return the message of an error of the disk or the folder, and None for any other error."""
    if isinstance(error, RuntimeError):  # of torch.save, raised while it closes its archive
        return disk_error(error.__context__)
    # safetensors has its own exception, which quotes the number of the system's.
    if (isinstance(error, OSError) and error.errno in UNWRITABLE) or "(os error " in str(error):
        return str(error).splitlines()[0]
    return None


def unwritable(path: Path, problem: str) -> ValueError:
    """Return the error for a file or folder that could not be written."""
    kept = f"; {path} is still the previous one" if path.exists() else ""
    return ValueError(f"{path} could not be written: {problem}{kept}")


def sync(path: Path) -> None:
    """Flush a file or the names in a folder to the disk, so that they survive a power failure."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
