"""The one command of the project: ``python train.py {fit,validate,test,predict} -c base.yaml -c overlay.yaml ...``."""

from __future__ import annotations

import os

from jsonargparse import set_parsing_settings
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info

import callbacks
import datamodules  # noqa: F401 - imported classes have short names on the command line
import modules  # noqa: F401
from modules.weights import load_weights

# Makes ${...} resolve across files and the command line; the other modes resolve each file by itself.
set_parsing_settings(omegaconf_absolute_to_relative_paths=True)


class VideoARCLI(LightningCLI):
    """LightningCLI with ``--init_from`` (weights only, for a new stage) and a named ``checkpoint`` callback."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--init_from",
            type=str | None,
            default=None,
            help="Start from the weights in this checkpoint or safetensors file: a new run, a new stage, or a video tokenizer from an "
            "image tokenizer. To continue the same run use --ckpt_path.",
        )
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")

    def after_instantiate_classes(self) -> None:
        """Load the weights before callbacks copy the model and strategies wrap it."""
        config = self.config[self.subcommand] if self.subcommand else self.config
        resumed = config.get("ckpt_path")
        if config["init_from"] and not (resumed and os.path.isfile(resumed)):
            rank_zero_info(str(load_weights(self.model, config["init_from"])))
            self.model.weights_source = config["init_from"]


def main(args: list[str] | None = None, run: bool = True) -> VideoARCLI:
    """Parse and run; with ``run=False`` only compose and instantiate."""
    return VideoARCLI(
        args=args,
        run=run,
        save_config_callback=callbacks.SaveRunConfig,
        save_config_kwargs={"save_to_log_dir": False, "overwrite": True},
        parser_kwargs={"parser_mode": "omegaconf+"},
        seed_everything_default=0,
    )


if __name__ == "__main__":
    main()
