"""A checkpoint as a folder: every process writes and reads its own share of the tensors, and none has to hold all of them.

The format is that of ``torch.distributed.checkpoint``: a file per process, and ``.metadata``, a pickle that says where each tensor is.
Torch would run whatever such a pickle asks for; here it may name nothing but the classes that describe tensors. What is no tensor is
kept in ``meta.pt``.
"""

from __future__ import annotations

import os
import pickle
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from modules.storage.tensor_file import META, open_tensors, save_flushed, sync_folder

HARMLESS = {
    ("pathlib", "PosixPath"),
    ("torch", "Size"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.distributed.checkpoint.metadata", "ChunkStorageMetadata"),
    ("torch.distributed.checkpoint.metadata", "Metadata"),
    ("torch.distributed.checkpoint.metadata", "MetadataIndex"),
    ("torch.distributed.checkpoint.metadata", "StorageMeta"),
    ("torch.distributed.checkpoint.metadata", "TensorProperties"),
    ("torch.distributed.checkpoint.metadata", "TensorStorageMetadata"),
    ("torch.distributed.checkpoint.metadata", "_MEM_FORMAT_ENCODING"),
    ("torch.serialization", "_get_layout"),
}


class Names(pickle.Unpickler):
    """Reads a pickle that describes tensors and refuses any other."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        number = module_name == "torch" and isinstance(getattr(torch, global_name, None), torch.dtype)
        if number or (module_name, global_name) in HARMLESS:
            return super().find_class(module_name, global_name)
        raise pickle.UnpicklingError(f"it names {module_name}.{global_name}")


class Reader(FileSystemReader):
    """Torch's reader, without its trust."""

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        """
        Raises:
            ValueError: If the folder has no metadata, or those of anything but tensors.
        """
        path = Path(self.path) / ".metadata"
        try:
            with path.open("rb") as file:
                metadata = Names(file).load()
            if not all(isinstance(entry, TensorStorageMetadata) for entry in metadata.state_dict_metadata.values()):
                raise ValueError("it tells of more than tensors")
        except Exception as error:
            raise ValueError(f"{path} does not describe shards of a checkpoint: {error}") from error
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


def entries(folder: Path) -> dict[str, TensorStorageMetadata]:
    """Size and type of every tensor of a folder."""
    return Reader(folder).read_metadata().state_dict_metadata  # type: ignore[return-value]


def empty(entry: TensorStorageMetadata) -> Tensor:
    return torch.empty(entry.size, dtype=entry.properties.dtype)


def split(checkpoint: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a checkpoint, by the names that they have in a folder, and the rest. Optimizers tell parameters by name."""
    optimizers = checkpoint.get("optimizer_states", [])
    tensors = {f"model/{name}": value for name, value in checkpoint["state_dict"].items()}
    for place, optimizer in enumerate(optimizers):
        tensors |= {f"{place}/{name}/{key}": value for name, row in optimizer["state"].items() for key, value in row.items()}
    if wrong := next((name for name, value in tensors.items() if not isinstance(value, Tensor)), None):
        raise ValueError(f"a folder of shards holds tensors only, and {wrong} is none: take configs/trainer/fsdp.yaml")
    rest = {name: value for name, value in checkpoint.items() if name != "state_dict"}
    if optimizers:
        rest["optimizer_states"] = [{"param_groups": optimizer["param_groups"]} for optimizer in optimizers]
    return tensors, rest


def unite(tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> dict[str, Any]:
    """The checkpoint that was :func:`split`."""
    checkpoint = {**rest, "state_dict": {}}
    if "optimizer_states" in rest:
        checkpoint["optimizer_states"] = [{**optimizer, "state": {}} for optimizer in rest["optimizer_states"]]
    for name, value in tensors.items():
        part, _, inner = name.partition("/")
        if part == "model":
            checkpoint["state_dict"][inner] = value
        else:
            parameter, key = inner.split("/")
            checkpoint["optimizer_states"][int(part)]["state"].setdefault(parameter, {})[key] = value
    return checkpoint


def read_tensors(folder: Path, into: Mapping[str, Tensor]) -> None:
    """Fill tensors, shares of them on several processes, which must all call this.

    Raises:
        ValueError: If a share is missing or damaged.
    """
    try:
        with without_remark():
            load(dict(into), storage_reader=Reader(folder))
    except CheckpointException as error:
        raise ValueError(f"{folder} cannot be read: {first_of(error)}") from error


def first_of(error: CheckpointException) -> str:
    """What went wrong on the first of the processes that failed; all of them are told."""
    return str(next(iter(error.failures.values()))[0]).splitlines()[0]


def read_rest(folder: Path) -> dict[str, Any]:
    """What of a checkpoint is no tensor."""
    return open_tensors(folder / META)


def unfinished_of(path: Path) -> Path:
    """Where a folder is written; files that are being written end in ``.part``, so that neither is in the other's way."""
    return path.with_name(f".{path.name}.shards")


def begin(path: Path, rest: Mapping[str, Any]) -> Path:
    """Make the folder for the shards of a checkpoint that will be called ``path``; done by one process."""
    unfinished = unfinished_of(path)
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    save_flushed(rest, unfinished / META)
    return unfinished


def write_tensors(unfinished: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write the tensors, shares of them on several processes, which must all call this; flushed to the disk."""
    with without_remark():
        save(dict(tensors), storage_writer=FileSystemWriter(unfinished))


@contextmanager
def without_remark() -> Iterator[None]:
    """Without torch's remark that one process alone is one process alone."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
        yield


def publish(unfinished: Path, path: Path, step: int) -> None:
    """Give a whole folder its name, and remove the one that had it before; done by one process.

    A folder cannot take the place of another in one go, and a link can: ``path`` is a link to a folder beside it.
    """
    final = path.with_name(f"{path.stem}.shards{step}")
    if path.is_symlink() and path.resolve() == final.resolve():  # the same step once more, and its folder is in use
        final = final.with_name(f"{final.name}_again")
    shutil.rmtree(final, ignore_errors=True)
    sync_folder(unfinished)
    unfinished.rename(final)
    link = path.with_name(f".{path.name}.link")
    link.unlink(missing_ok=True)
    link.symlink_to(final.name)
    if path.is_dir() and not path.is_symlink():  # copied from elsewhere by a tool that follows links
        path.rename(path.with_name(f"{path.stem}.shards_copied"))
    os.replace(link, path)
    sync_folder(path.parent)
    sweep(path)


def sweep(path: Path) -> None:
    """Remove the folders of shards that a checkpoint does not use: those from before, and what interrupted runs left."""
    for folder in (unfinished_of(path), *path.parent.glob(f"{path.stem}.shards*")):
        if folder.resolve() != path.resolve():
            shutil.rmtree(folder, ignore_errors=True)
