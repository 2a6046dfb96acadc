"""Configuration and environment of a run, saved with its results."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from lightning import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from callbacks.records.provenance import environment
from modules.storage.atomic_files import write_text


class SaveRunConfig(SaveConfigCallback):
    """Writes the composed YAML to ``<default_root_dir>/<fit, validate, test or predict>.yaml`` and passes it to the loggers.

    The file holds every value, defaults and resolved ``${...}`` included, and can be passed to ``-c``. A later run of the same kind
    replaces it. Commit, versions, devices and command are written to ``<fit, ...>.environment.json``. Use with ``save_to_log_dir=False``:
    Lightning's own copy makes a second run fail.
    """

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Called on rank zero only."""
        text = self.parser.dump(self.config, skip_none=False)
        assert trainer.state.fn is not None
        folder, kind = Path(trainer.default_root_dir), trainer.state.fn.value
        write_text(folder / f"{kind}.yaml", text)
        write_text(folder / f"{kind}.environment.json", json.dumps(environment(trainer), indent=1) + "\n")
        for logger in trainer.loggers:
            logger.log_hyperparams(yaml.safe_load(text))
