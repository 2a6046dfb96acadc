"""The command line at toy sizes, called from Python."""

from pathlib import Path
from unittest.mock import patch

import torch

from train import VideoARCLI, main

ROOT = Path(__file__).parent.parent
CONFIGS = ROOT / "configs"
TESTS = ROOT / "tests"


def arguments(command: str, task: str, root: Path, *more: object) -> list[str]:
    """A command line over the toy configuration of a task; ``root`` is where the run writes to."""
    overlays = {"tokenizer": ["toy.yaml"], "videoar": ["toy.yaml", "toy_videoar.yaml"]}[task]
    files = [CONFIGS / f"{task}.yaml", *(TESTS / overlay for overlay in overlays)]
    configs = [text for file in files for text in ("-c", str(file))]
    return [command, *configs, "--trainer.default_root_dir", str(root), *map(str, more)]


def run(command: str, task: str, root: Path, *more: object) -> Path:
    """Run it and return the path of the checkpoint that a fit leaves."""
    main(arguments(command, task, root, *more))
    return checkpoint(root)


def checkpoint(root: Path) -> Path:
    """The last checkpoint of a run."""
    return root / "checkpoints" / "last.ckpt"


def compose(task: str, root: Path, *more: object) -> VideoARCLI:
    """Parse and build everything that a fit needs, without training."""
    with patch.object(VideoARCLI, "_run_subcommand"):
        return main(arguments("fit", task, root, *more))


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint, weights_only=True)["state_dict"]


def assert_same_result(one: Path, other: Path) -> None:
    """Weights, optimizers, schedules and steps of two checkpoints are equal to the last bit."""
    first, second = (torch.load(path, weights_only=True) for path in (one, other))
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
        torch.testing.assert_close(first[part], second[part], rtol=0, atol=0, msg=lambda text, part=part: f"{part}: {text}")
