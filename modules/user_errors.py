"""Telling a user's mistake, which deserves one clear line, from a fault of the program, which deserves a traceback."""

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

# Packages whose ValueErrors speak of what a user gave them; train.py runs under two names.
SPEAKING = {"modules", "datamodules", "callbacks", "scripts", "experiments", "benchmarks", "lightning", "train", "__main__"}


OUT_OF_MEMORY = (
    "out of memory. Smaller steps: --data.batch_size, with --trainer.accumulate_grad_batches for the same sum; "
    "--model.transformer.execution.activation_checkpointing true keeps less for the backward pass; "
    "-c configs/trainer/bf16.yaml halves what is kept; "
    "-c configs/trainer/fsdp.yaml shares weights and optimizer among devices. python -m scripts.plan says what each of them saves"
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
    """What a user did wrong, in one line; None if an error is none of a user's making."""
    chain = list(unwrapped(error))
    text = " ".join(str(chain[-1]).split())
    if isinstance(error, ArgumentError):
        keys = [found[1] for wrapper in chain if (found := re.match(r'Parser key "([^"]+)"', str(wrapper)))]
        place = ".".join(dict.fromkeys(keys))
        if text.endswith("is abstract") and (option := nested_option(chain)):
            return unknown_name(f"{keys[0]}.{option}")
        return f"{place}: {text}" if place else text
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error):
        return OUT_OF_MEMORY
    if isinstance(error, RuntimeError) and str(error).startswith("Error(s) in loading state_dict"):
        return f"the checkpoint is of another architecture: {' '.join(str(error).splitlines()[1].split())}"
    clear = package_of(chain[-1]) in SPEAKING and isinstance(chain[-1], ValueError | FileNotFoundError | MisconfigurationException)
    return text if clear else None


def nested_option(chain: list[BaseException]) -> str | None:
    """The option of the command line that jsonargparse was looking at, without its first key."""
    return next((found[1] for error in chain if (found := re.search(r"NestedArg\(key='([^']+)'", str(error)))), None)


def unknown_name(option: str) -> str:
    """What to say of an option below a name of a dictionary, such as a mixture's parts, that nothing has."""
    name, _, key = option.rpartition(".")
    return f"{name} has no class yet that could have the option {key}: is a name misspelt? A new one needs {name}.class_path first"


def unwrapped(error: BaseException | None) -> Iterator[BaseException]:
    """An error and, if jsonargparse raised it, those it was raised from: it wraps whatever constructors raise."""
    while error is not None:
        yield error
        error = (error.__cause__ or error.__context__) if package_of(error) in ("jsonargparse", "argparse") else None


def package_of(error: BaseException) -> str:
    """The package whose code raised an error."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return frames[-1].f_globals["__name__"].split(".")[0] if frames else ""
