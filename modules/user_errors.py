"""Distinguishes user errors, reported in one line, from defects of the program, reported with a traceback."""

from __future__ import annotations

import os
import re
import sys
import traceback
from argparse import ArgumentError
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

# Packages whose ValueErrors are about user input. train.py runs under two names.
PACKAGES = {"modules", "datamodules", "callbacks", "scripts", "experiments", "benchmarks", "lightning", "train", "__main__"}

OUT_OF_MEMORY = (
    "out of memory. Reduce --data.batch_size, with --trainer.accumulate_grad_batches for the same number of clips per step; "
    "--model.transformer.execution.activation_checkpointing true stores fewer activations; "
    "-c configs/trainer/bf16.yaml halves their size; "
    "-c configs/trainer/fsdp.yaml shards weights and optimizer states over devices. python -m scripts.plan estimates the savings"
)


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """End the process with ``error: ...`` and exit code 1 on a user error, and with 130 on Ctrl-C.

    Other errors keep their traceback; with the environment variable ``VIDEOAR_DEBUG`` set, all of them do.
    """
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        text = user_error(error)
        if text is None or os.environ.get("VIDEOAR_DEBUG"):
            raise
        sys.exit(f"error: {text}")


def user_error(error: BaseException) -> str | None:
    """Return a one-line message if the user caused the error, and None if it is a defect of the program."""
    chain = list(unwrapped(error))
    text = " ".join(str(chain[-1]).split())
    if isinstance(error, ArgumentError):
        keys = [found[1] for wrapper in chain if (found := re.match(r'Parser key "([^"]+)"', str(wrapper)))]
        key = ".".join(dict.fromkeys(keys))
        if text.endswith("is abstract") and (option := nested_option(chain)):
            return unknown_name(f"{keys[0]}.{option}")
        return f"{key}: {text}" if key else text
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error):
        return OUT_OF_MEMORY
    if isinstance(error, RuntimeError) and str(error).startswith("Error(s) in loading state_dict"):
        return f"the checkpoint is of another architecture: {' '.join(str(error).splitlines()[1].split())}"
    about_input = package_of(chain[-1]) in PACKAGES and isinstance(chain[-1], ValueError | FileNotFoundError | MisconfigurationException)
    return text if about_input else None


def nested_option(chain: list[BaseException]) -> str | None:
    """Return the command-line option that jsonargparse was parsing, without its first key."""
    return next((found[1] for error in chain if (found := re.search(r"NestedArg\(key='([^']+)'", str(error)))), None)


def unknown_name(option: str) -> str:
    """Return the message for an option below an unknown name of a dictionary, such as the parts of a mixture."""
    name, _, key = option.rpartition(".")
    return f"{name} has no class that could have the option {key}: is a name misspelt? A new one needs {name}.class_path first"


def unwrapped(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and, as jsonargparse wraps the errors of constructors, the errors that it was raised from."""
    while error is not None:
        yield error
        error = (error.__cause__ or error.__context__) if package_of(error) in ("jsonargparse", "argparse") else None


def package_of(error: BaseException) -> str:
    """Return the name of the package whose code raised an error."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return frames[-1].f_globals["__name__"].split(".")[0] if frames else ""
