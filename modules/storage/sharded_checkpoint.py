"""Sharded checkpoint: a folder to which every process writes, and from which it reads, its own shards of the tensors.

The format is that of ``torch.distributed.checkpoint``: a file per process, and ``.metadata``, a pickle that locates every tensor. Torch
unpickles it without restrictions; here only the classes that describe tensors are allowed. ``torch.load(weights_only=True)`` cannot read
it, as it is a plain pickle and not an archive of torch's. Everything that is not a tensor is stored in ``meta.pt``.
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

from modules.storage.atomic_files import sync
from modules.storage.tensor_file import META, open_tensors, save_checkpoint

ALLOWED = {
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


class MetadataUnpickler(pickle.Unpickler):
    """Unpickler of descriptions of tensors that refuses everything else."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        is_dtype = module_name == "torch" and isinstance(getattr(torch, global_name, None), torch.dtype)
        if is_dtype or (module_name, global_name) in ALLOWED:
            return super().find_class(module_name, global_name)
        raise pickle.UnpicklingError(f"it names {module_name}.{global_name}")


class SafeReader(FileSystemReader):
    """Torch's reader with a restricted unpickler."""

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        """
        Raises:
            ValueError: If the folder has no metadata, or describes anything but tensors, which torch would unpickle without restrictions.
        """
        path = Path(self.path) / ".metadata"
        try:
            with path.open("rb") as file:
                metadata = MetadataUnpickler(file).load()
            if not all(isinstance(entry, TensorStorageMetadata) for entry in metadata.state_dict_metadata.values()):
                raise ValueError("it describes more than tensors")
        except Exception as error:
            raise ValueError(f"{path} does not describe a sharded checkpoint: {error}") from error
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


def entries(folder: Path) -> dict[str, TensorStorageMetadata]:
    """Return the size and dtype of every tensor of a sharded checkpoint."""
    return SafeReader(folder).read_metadata().state_dict_metadata  # type: ignore[return-value]


def empty(entry: TensorStorageMetadata) -> Tensor:
    return torch.empty(entry.size, dtype=entry.properties.dtype)


def split(checkpoint: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of a checkpoint by their names in the folder, and everything else.

    Optimizer states must identify parameters by name.
    """
    optimizers = checkpoint.get("optimizer_states", [])
    tensors = {f"model/{name}": value for name, value in checkpoint["state_dict"].items()}
    for index, optimizer in enumerate(optimizers):
        tensors |= {f"{index}/{name}/{key}": value for name, row in optimizer["state"].items() for key, value in row.items()}
    if wrong := next((name for name, value in tensors.items() if not isinstance(value, Tensor)), None):
        raise ValueError(f"a sharded checkpoint holds tensors only, and {wrong} is not a tensor: use configs/trainer/fsdp.yaml")
    rest = {name: value for name, value in checkpoint.items() if name != "state_dict"}
    if optimizers:
        rest["optimizer_states"] = [{"param_groups": optimizer["param_groups"]} for optimizer in optimizers]
    return tensors, rest


def join(tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the checkpoint that :func:`split` took apart."""
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
    """Fill tensors, of which each process may hold a shard. All processes must call this.

    Raises:
        ValueError: If a shard is missing or damaged.
    """
    try:
        with no_single_process_warning():
            load(dict(into), storage_reader=SafeReader(folder))
    except CheckpointException as error:
        raise ValueError(f"{folder} cannot be read: {first_failure(error)}") from error


def first_failure(error: CheckpointException) -> str:
    """Return the message of the first process that failed; every process has the failures of all."""
    return str(next(iter(error.failures.values()))[0]).splitlines()[0]


def read_rest(folder: Path) -> dict[str, Any]:
    """Return everything of a checkpoint that is not a tensor."""
    return open_tensors(folder / META)


def temporary_folder(path: Path) -> Path:
    """Return the folder in which a checkpoint is prepared. Temporary files end in ``.part``, so the two never collide."""
    return path.with_name(f".{path.name}.shards")


def begin(path: Path, rest: Mapping[str, Any]) -> Path:
    """Create the temporary folder of the checkpoint ``path`` and return it; called on one process."""
    temporary = temporary_folder(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_checkpoint(rest, temporary / META)
    return temporary


def write_tensors(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors, of which each process may hold a shard, and flush them to the disk. All processes must call this."""
    with no_single_process_warning():
        save(dict(tensors), storage_writer=FileSystemWriter(folder))


@contextmanager
def no_single_process_warning() -> Iterator[None]:
    """Silence torch's warning that a single process does not communicate."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
        yield


def publish(temporary: Path, path: Path, step: int) -> None:
    """Rename a complete folder to its final name and remove the previous one; called on one process.

    A folder cannot replace another one atomically but a link can, so ``path`` is a link to a folder beside it.
    """
    final = path.with_name(f"{path.stem}.shards{step}")
    if path.is_symlink() and path.resolve() == final.resolve():  # a second checkpoint of a step, whose folder is in use
        final = final.with_name(f"{final.name}_again")
    shutil.rmtree(final, ignore_errors=True)
    sync(temporary)
    temporary.rename(final)
    link = path.with_name(f".{path.name}.link")
    link.unlink(missing_ok=True)
    link.symlink_to(final.name)
    if path.is_dir() and not path.is_symlink():  # copied here by a tool that follows links
        path.rename(path.with_name(f"{path.stem}.shards_copied"))
    os.replace(link, path)
    sync(path.parent)
    remove_unused(path)


def remove_unused(path: Path) -> None:
    """Remove the folders of shards that the checkpoint ``path`` does not use: previous ones, and those of interrupted runs."""
    for folder in (temporary_folder(path), *path.parent.glob(f"{path.stem}.shards*")):
        if folder.resolve() != path.resolve():
            shutil.rmtree(folder, ignore_errors=True)
