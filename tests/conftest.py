"""Toy models and clips for all tests; torch on one thread, so that small tests neither wait nor wobble."""

import os

import pytest
import torch
from stage_runs import StageRuns

from modules.tokenizer import VideoTokenizer
from modules.transformer import ClassCondition, VideoARTransformer

torch.set_num_threads(1)

# The files that take longest, longest first. They run before all others, so that no process waits at the end for one long file.
LONG_FILES = (
    "test_killed_runs",
    "test_sigterm",
    "test_faults",
    "test_scale",
    "test_cli",
    "test_shards",
    "test_cached_training",
    "test_configs",
    "test_planning",
    "test_bad_input",
    "test_export",
    "test_stages",
    "test_mixture",
    "test_broken",
    "test_predict",
    "test_generation",
    "test_video_buckets",
    "test_encode_latents",
    "test_graphs",
    "test_i3d",
    "test_decoding",
    "test_run_habits",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG_FILES.index(item.path.stem) if item.path.stem in LONG_FILES else len(LONG_FILES))


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def stage_runs(tmp_path_factory: pytest.TempPathFactory) -> StageRuns:
    """Toy runs of all stages. Under pytest-xdist the folder above the temporary folders of its processes is common to them."""
    base = tmp_path_factory.getbasetemp()
    return StageRuns((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "stage_runs")


@pytest.fixture
def tokenizer() -> VideoTokenizer:
    """16 x 16 pixels to 4 x 4 tokens of 8 bits, 4 frames per latent frame."""
    return perturbed(VideoTokenizer(bits=8, channels=24, multipliers=(1, 1, 1), blocks=1, temporal_factor=4)).eval()


@pytest.fixture
def transformer() -> VideoARTransformer:
    return perturbed(make_transformer()).eval()


def make_transformer(bits: int = 8, **settings: object) -> VideoARTransformer:
    return VideoARTransformer(bits, lambda width: ClassCondition(width, (3, 2)), width=48, layers=2, heads=2, **settings)


def count_parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def perturbed(module: torch.nn.Module, by: float = 0.1) -> torch.nn.Module:
    """Every parameter moved away from its start, where zeros and ones would hide mistakes."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * by)
    return module
