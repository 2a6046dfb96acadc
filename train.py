"""The training and evaluation command: ``python train.py {fit,validate,test,predict} -c base.yaml -c overlay.yaml ...``.

An error in the command line, a configuration or the data is reported in one line, ``error: ...``, with exit code 1; the environment
variable ``VIDEOAR_DEBUG`` adds the traceback.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import warnings
import zipfile
from argparse import ArgumentError
from typing import Any

from jsonargparse import Namespace, set_parsing_settings
from lightning import Callback, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException

import callbacks
import datamodules  # noqa: F401 - imported classes have short names on the command line
import modules  # noqa: F401
from modules.init_from import load_weights
from modules.renames import check_arguments
from modules.tokenizer.inflation import TemporalInit
from modules.user_errors import errors_in_one_line, user_error

for message in (
    # Lightning's own use of torch, which users cannot change.
    ".*LeafSpec.*deprecated",
    # A run over clips that all exist already says so itself, and batch indices are not used.
    "Total length of `RankBatches` across ranks is zero|Couldn't infer the batch indices",
    # Recommends checkpoints of the weights before each step; ours hold those after it.
    "Using ModelCheckpoint with manual optimization",
):
    warnings.filterwarnings("ignore", message=message)

# Resolves ${...} across files and the command line; the default mode resolves each file separately.
set_parsing_settings(omegaconf_absolute_to_relative_paths=True)


class Parser(LightningArgumentParser):
    """Parser whose errors name the configuration file."""

    def parse_path(self, cfg_path: str | os.PathLike, *args: Any, **settings: Any) -> Namespace:
        try:
            return super().parse_path(cfg_path, *args, **settings)
        except ArgumentError as error:
            raise ValueError(f"{cfg_path}: {user_error(error)}") from error


class VideoARCLI(LightningCLI):
    """LightningCLI with ``--init_from`` (weights only, for a new stage) and a ``checkpoint`` callback with settings of its own."""

    def __init__(self, args: ArgsType = None, **settings: Any) -> None:
        check_arguments(sys.argv[1:] if args is None else args)  # type: ignore[arg-type]
        parser = {"parser_mode": "omegaconf+", "exit_on_error": False}
        super().__init__(args=args, parser_class=Parser, parser_kwargs=parser, seed_everything_default=0, **settings)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--init_from",
            type=list[str] | str | None,
            default=None,
            help="Start a new run from the weights in this checkpoint, safetensors file or published Infinity tokenizer: a new stage, or a "
            "video tokenizer from an image tokenizer. A list joins files that complete each other, such as a model trained over cached "
            "latents and its tokenizer. To resume a run use --ckpt_path.",
        )
        parser.add_argument(
            "--temporal_init",
            type=TemporalInit,
            default="zeros",
            help="Initialisation of the earlier temporal slices of a kernel where --init_from makes a video tokenizer from an image "
            "tokenizer: zeros, which starts exactly equal to it, or random.",
        )
        parser.add_lightning_class_args(callbacks.LastCheckpoint, "checkpoint")
        add_optional_callback(parser, "flip_ratio", callbacks.FlipRatioSchedule)
        add_optional_callback(parser, "error_inheritance", callbacks.ErrorInheritance)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse the arguments and reject unusable ones before anything is read or built."""
        super().parse_arguments(parser, args)
        if self.config["subcommand"] != "fit":
            # Training callbacks are not needed by other commands.
            warnings.filterwarnings("ignore", message="Be aware that when using `ckpt_path`, callbacks used to create")
        check_start(self.config["subcommand"], self.config[self.config["subcommand"]])

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback | None]) -> Trainer:
        """Leave out the named callbacks that are null."""
        return super()._instantiate_trainer(config, [callback for callback in callbacks if callback is not None])

    def after_instantiate_classes(self) -> None:
        """Load the weights before callbacks copy the model and strategies wrap it."""
        config = self.config[self.config["subcommand"]]
        if config["init_from"] and not os.path.exists(config["ckpt_path"] or ""):
            # Only a model that is trained may start from weights with another number of bits.
            reinitialise = self.config["subcommand"] == "fit"
            rank_zero_info(str(load_weights(self.model, config["init_from"], config["temporal_init"], reinitialise)))
            self.model.weights_source = " and ".join([given] if isinstance(given := config["init_from"], str) else given)


def add_optional_callback(parser: LightningArgumentParser, key: str, kind: type[Callback]) -> None:
    """Add a callback that has a key of its own, so that single values of it can be overridden; null is off, and the default."""
    summary = (kind.__doc__ or "").strip().splitlines()[0]
    parser.add_argument(f"--{key}", type=kind | None, default=None, help=f"{summary} null: off. See --{key}.help.")
    parser.callback_keys.append(key)


def main(args: list[str] | None = None) -> VideoARCLI:
    """Parse the arguments, by default those of the process, and run the command."""
    return VideoARCLI(args, save_config_callback=callbacks.SaveRunConfig, save_config_kwargs={"save_to_log_dir": False, "overwrite": True})


def check_start(subcommand: str, config: Namespace) -> None:
    """Raises ``ValueError`` if the checkpoint does not exist or is not one, or if an untrained model would be tested or sampled."""
    checkpoint = config["ckpt_path"]
    if checkpoint == "last" and subcommand != "fit":
        checkpoint = os.path.join(config["checkpoint"]["dirpath"], "last.ckpt")
    if not checkpoint:
        if subcommand != "fit" and not config["init_from"]:
            raise ValueError(f"{subcommand} needs trained weights: give --ckpt_path or --init_from")
    elif not os.path.exists(checkpoint) and not re.fullmatch(r"last|best|hpc|registry.*|\w+://.*", checkpoint):
        raise ValueError(f"there is no checkpoint {checkpoint}")
    elif os.path.isfile(checkpoint) and not zipfile.is_zipfile(checkpoint):
        raise ValueError(f"{checkpoint} is not the checkpoint of a run; files that hold only weights are loaded with --init_from")


if __name__ == "__main__":
    with errors_in_one_line():
        try:
            main()
        except SIGTERMException:
            # Not 0, because the run is unfinished. Processes that Lightning started exit with 0: their code is not used, but any other
            # would make Lightning kill the first process.
            sys.exit(0 if os.environ.get("LOCAL_RANK", "0") != "0" else 128 + signal.SIGTERM)
