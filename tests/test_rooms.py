"""Who may import whom, read from the source: the rooms stay separate, and no file grows out of sight."""

import ast
from collections.abc import Iterable
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("modules", "datamodules", "callbacks")
LONGEST = 300

# A room and the rooms of ours that it may enter, by the names that imports have; a name stands for all below it. The first room that
# fits a file counts. Third-party packages are free, except Lightning: only rooms in WITH_LIGHTNING may use it.
DOORS: dict[str, set[str]] = {
    "modules.__init__": {"modules"},
    "modules.schedules": set(),
    "modules.geometry": {"modules.schedules"},
    "modules.batch": {"modules.latents"},
    "modules.pixels": set(),
    "modules.optim": set(),
    "modules.tensor_file": set(),
    "modules.weights": {"modules.tensor_file", "modules.tokenizer.fitting", "modules.tokenizer.infinity"},
    "modules.tokenizer": {"modules.tokenizer", "modules.geometry", "modules.pixels", "modules.tensor_file"},
    "modules.checksums": set(),
    "modules.features": {"modules.features", "modules.checksums"},
    "modules.latents": {"modules.latents", "modules.checksums", "modules.geometry"},
    "modules.transformer": {"modules.transformer", "modules.geometry", "modules.features"},
    "modules.autoregression": {"modules.autoregression", "modules.geometry", "modules.tokenizer", "modules.transformer"},
    "modules.metrics": {"modules.metrics", "modules.checksums", "modules.geometry", "modules.tensor_file"},
    "modules.mistakes": set(),
    "modules.precisions": set(),
    "modules.step_noise": set(),
    "modules.finite_steps": set(),
    "modules.lit_tokenizer": {"modules"},
    "modules.lit_videoar": {"modules"},
    "modules.videoar": {"modules.autoregression", "modules.geometry", "modules.pixels"},
    "modules.loading": {"modules"},
    "modules.shards": {"modules.tensor_file"},
    "modules.sharding": {"modules.shards", "modules.tensor_file", "modules.transformer"},
    "modules.consolidate": {"modules"},
    "modules.planning": {"modules.planning", "modules.autoregression", "modules.geometry", "modules.tokenizer", "modules.transformer"},
    "modules.plan": {"modules", "train"},
    "modules.exported": {"modules.tensor_file"},
    "modules.export": {"modules"},
    "datamodules": {"datamodules", "modules.geometry", "modules.batch", "modules.pixels", "modules.features", "modules.latents"},
    "callbacks": {
        "callbacks",
        "modules.geometry",
        "modules.batch",
        "modules.checksums",
        "modules.latents",
        "modules.metrics",
        "modules.autoregression.corruption",
        "modules.finite_steps",
        "modules.planning.work",
        "modules.tensor_file",
    },
    "train": {"callbacks", "datamodules", "modules"},
}
WITH_LIGHTNING = {
    "modules.mistakes",
    "modules.sharding",
    "modules.lit_tokenizer",
    "modules.lit_videoar",
    "datamodules",
    "callbacks",
    "train",
}

SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path.read_text()
    for path in [ROOT / "train.py", *(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))]
}


def within(name: str, rooms: Iterable[str]) -> bool:
    return any(name == room or name.startswith(f"{room}.") for room in rooms)


def room_of(name: str) -> str:
    return next(room for room in DOORS if within(name, [room]))


def imports(name: str, source: str, known: Iterable[str] = tuple(SOURCES)) -> set[str]:
    """What a file imports anywhere in it: third-party modules as written, ours as the file that is meant."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: imports are written in full"
            found |= {f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in known else node.module for alias in node.names}
    return {f"{module}.__init__" if f"{module}.__init__" in known else module for module in found}


def trespasses(name: str, source: str) -> list[str]:
    """The imports that a file is not allowed."""
    room, found = room_of(name), imports(name, source)
    own = {module for module in found if within(module, [*PACKAGES, "train"])}
    lightning = {module for module in found if within(module, ["lightning", "pytorch_lightning"])}
    strangers = {module for module in own if not within(module.removesuffix(".__init__"), DOORS[room])}
    return sorted(strangers | (set() if room in WITH_LIGHTNING else lightning))


@pytest.mark.parametrize("name", SOURCES)
def test_imports_go_through_the_doors(name: str) -> None:
    assert not trespasses(name, SOURCES[name])


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("modules.tokenizer.bsq", "from modules.transformer import RandomFrameMask"),
        ("modules.tokenizer.bsq", "import lightning.pytorch"),
        ("modules.transformer.block", "from modules.tokenizer.bsq import to_bits"),
        ("modules.autoregression.memory", "def late():\n    from lightning import Trainer"),
        ("modules.metrics.bits", "from modules import LitVideoAR"),
        ("modules.lit_videoar", "from datamodules import Prompts"),
        ("datamodules.prompts", "from modules.tokenizer import VideoTokenizer"),
        ("datamodules.prompts", "from callbacks.files import write_text"),
        ("callbacks.files", "import modules"),
        ("callbacks.files", "from modules.lit_videoar import LitVideoAR"),
        ("callbacks.files", "from modules.autoregression import teach"),
        ("callbacks.files", "import datamodules.reader"),
        ("modules.geometry", "import train"),
    ],
)
def test_a_trespass_would_be_seen(name: str, line: str) -> None:
    assert name in SOURCES and trespasses(name, line)


def test_no_import_goes_in_a_circle() -> None:
    graph = {name: imports(name, source) & SOURCES.keys() for name, source in SOURCES.items()}
    assert sum(map(len, graph.values())) > len(graph)
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("name", [name for name in SOURCES if name.endswith("__init__")])
def test_packages_only_name_what_they_offer(name: str) -> None:
    documentation, *body = ast.parse(SOURCES[name]).body
    assert isinstance(documentation, ast.Expr) and all(isinstance(node, ast.ImportFrom | ast.Assign) for node in body)
    offered = {alias.name for node in body if isinstance(node, ast.ImportFrom) for alias in node.names}
    (listed,) = (ast.literal_eval(node.value) for node in body if isinstance(node, ast.Assign))
    assert set(listed) == offered


def test_no_file_is_too_long() -> None:
    files = [*ROOT.glob("*.py"), *(path for folder in (*PACKAGES, "tests") for path in (ROOT / folder).rglob("*.py"))]
    assert not [f"{path.relative_to(ROOT)}" for path in files if len(path.read_text().splitlines()) > LONGEST]
