"""Records of videos and images in a folder per class, in place of a manifest."""

from __future__ import annotations

from pathlib import Path

from datamodules.clips.manifest import ClipRecord, read_manifest
from datamodules.decoding.reader import IMAGES, VIDEOS


def read_records(path: Path | str) -> list[ClipRecord]:
    """Return the records of a .jsonl manifest, or of a folder with a folder of files per class.

    Raises:
        ValueError: If it is empty, or a line of the manifest is invalid.
    """
    return class_folder_records(Path(path)) if Path(path).is_dir() else read_manifest(path)


def class_folder_records(root: Path) -> list[ClipRecord]:
    """Return a record for every video and image directly inside a folder of ``root``, labelled with the folder's name; sorted by path.

    Raises:
        ValueError: If there are none.
    """
    paths = sorted(path for folder in root.iterdir() if folder.is_dir() for path in folder.iterdir())
    records = [_record(root, path) for path in paths if path.suffix.lower() in VIDEOS | IMAGES and not path.name.startswith(".")]
    if not records:
        wanted = "a manifest is a .jsonl file or a folder of folders, one per class"
        raise ValueError(
            f"no folder in {root} contains videos or images; {wanted}. python -m scripts.make_manifest creates one from any folder"
        )
    return records


def _record(root: Path, path: Path) -> ClipRecord:
    listed = path.relative_to(root).as_posix()
    return ClipRecord(path, listed, location=str(path), caption="", label=path.parent.name, start=0.0, end=None, values={})
