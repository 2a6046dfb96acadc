"""Videos and pictures in a folder per class, as the rows of a manifest that nobody had to write."""

from __future__ import annotations

from pathlib import Path

from datamodules.clips.manifest import Row, read_manifest
from datamodules.decoding.reader import PICTURES, VIDEOS


def read_rows(path: Path | str) -> list[Row]:
    """The rows of a .jsonl manifest, or of a folder with a folder of files per class.

    Raises:
        ValueError: If there is nothing in it, or a line of the manifest is wrong.
    """
    return read_class_folders(Path(path)) if Path(path).is_dir() else read_manifest(path)


def read_class_folders(root: Path) -> list[Row]:
    """A row for every video and picture that lies directly in a folder of ``root``, whose name is the label; sorted by path.

    Raises:
        ValueError: If there are none.
    """
    paths = sorted(path for folder in root.iterdir() if folder.is_dir() for path in folder.iterdir())
    rows = [_row(root, path) for path in paths if path.suffix.lower() in VIDEOS | PICTURES and not path.name.startswith(".")]
    if not rows:
        wanted = "a manifest is a .jsonl file or a folder of folders, one per class"
        raise ValueError(f"no folder in {root} holds videos or pictures; {wanted}. python -m scripts.make_manifest makes one of any folder")
    return rows


def _row(root: Path, path: Path) -> Row:
    written = path.relative_to(root).as_posix()
    return Row(path, written, place=str(path), caption="", label=path.parent.name, start=0.0, end=None, values={})
