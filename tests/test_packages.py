"""Import rules, read from the source: packages stay separate, and files and functions stay small."""

import ast
import re
from collections.abc import Iterable
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("modules", "datamodules", "callbacks", "scripts", "experiments", "benchmarks")
MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 40  # of nine functions in ten

# A package and the packages of ours that it may import, by the names that imports have; a name stands for all below it. The first entry
# that fits a file counts. Third-party packages are free, except Lightning: only those in WITH_LIGHTNING may use it.
ALLOWED: dict[str, set[str]] = {
    "modules.__init__": {"modules"},
    "modules.scale_schedules": set(),
    "modules.geometry": {"modules.scale_schedules"},
    "modules.batch": {"modules.storage.latents"},
    "modules.pixels": set(),
    "modules.user_errors": set(),
    "modules.renames": set(),
    "modules.tokenizer": {
        "modules.tokenizer",
        "modules.geometry",
        "modules.pixels",
        "modules.storage.checksums",
        "modules.storage.tensor_file",
    },
    "modules.storage": {"modules.storage", "modules.geometry"},
    "modules.init_from": {"modules.storage.tensor_file", "modules.tokenizer.inflation", "modules.tokenizer.infinity"},
    "modules.transformer": {"modules.transformer", "modules.geometry", "modules.storage.text_features"},
    "modules.autoregression": {"modules.autoregression", "modules.geometry", "modules.tokenizer", "modules.transformer"},
    "modules.metrics": {"modules.metrics", "modules.geometry", "modules.storage"},
    "modules.training.fsdp": {"modules.training", "modules.storage", "modules.transformer"},
    "modules.training.guarded_step": {"modules.training.nonfinite_steps"},
    "modules.training.tokenizer_checks": {"modules.training.precision"},
    "modules.training": {"modules.training", "modules.storage", "modules.transformer"},
    "modules.planning": {"modules.planning", "modules.autoregression", "modules.geometry", "modules.tokenizer", "modules.transformer"},
    "modules.generation_requests": {"modules.autoregression", "modules.batch", "modules.geometry", "modules.pixels"},
    "modules.videoar": {"modules.autoregression", "modules.geometry", "modules.pixels"},
    "modules.lit_tokenizer": {"modules"},
    "modules.lit_videoar": {"modules"},
    "modules.loading": {"modules"},
    "datamodules": {
        "datamodules",
        "modules.batch",
        "modules.geometry",
        "modules.pixels",
        "modules.storage.latents",
        "modules.storage.text_features",
    },
    "callbacks": {
        "callbacks",
        "modules.autoregression.corruption",
        "modules.batch",
        "modules.geometry",
        "modules.metrics",
        "modules.planning.flops",
        "modules.storage",
        "modules.training.nonfinite_steps",
        "modules.training.start_steps",
    },
    "train": {"callbacks", "datamodules", "modules"},
    "scripts": {"scripts", "train", "callbacks", "datamodules", "modules"},
    "experiments": {"experiments", "scripts", "train", "callbacks", "datamodules", "modules"},
    "benchmarks": {"benchmarks", "scripts", "train", "callbacks", "datamodules", "modules"},
}
WITH_LIGHTNING = {
    "modules.user_errors",
    "modules.training.fsdp",
    "modules.training.guarded_step",
    "modules.training.tokenizer_checks",
    "modules.generation_requests",
    "modules.lit_tokenizer",
    "modules.lit_videoar",
    "datamodules",
    "callbacks",
    "train",
    "scripts",
    "experiments",
    "benchmarks",
}

SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path.read_text()
    for path in [ROOT / "train.py", *(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))]
}


def within(name: str, packages: Iterable[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def package_of(name: str) -> str:
    return next(package for package in ALLOWED if within(name, [package]))


def imports(name: str, source: str, known: Iterable[str] = tuple(SOURCES)) -> set[str]:
    """All imports of a file, at any place in it: third-party modules as written, ours as the file that is meant."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: imports are written in full"
            found |= {f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in known else node.module for alias in node.names}
    return {f"{module}.__init__" if f"{module}.__init__" in known else module for module in found}


def forbidden_imports(name: str, source: str) -> list[str]:
    package, found = package_of(name), imports(name, source)
    own = {module for module in found if within(module, [*PACKAGES, "train"])}
    lightning = {module for module in found if within(module, ["lightning", "pytorch_lightning"])}
    strangers = {module for module in own if not within(module.removesuffix(".__init__"), ALLOWED[package])}
    return sorted(strangers | (set() if package in WITH_LIGHTNING else lightning))


def test_files_import_only_what_their_package_may() -> None:
    found = {name: forbidden for name, source in SOURCES.items() if (forbidden := forbidden_imports(name, source))}
    assert not found


def test_a_forbidden_import_would_be_found() -> None:
    for name, line in [
        ("modules.tokenizer.bsq", "from modules.transformer import RandomFrameMask"),
        ("modules.tokenizer.bsq", "import lightning.pytorch"),
        ("modules.transformer.block", "from modules.tokenizer.bsq import to_bits"),
        ("modules.autoregression.latent_memory", "def late():\n    from lightning import Trainer"),
        ("modules.metrics.bits", "from modules import LitVideoAR"),
        ("modules.lit_videoar", "from datamodules import Prompts"),
        ("modules.planning.flops", "import train"),
        ("datamodules.predict.prompts", "from modules.tokenizer import VideoTokenizer"),
        ("datamodules.predict.prompts", "from modules.storage.atomic_files import write_text"),
        ("callbacks.flip_ratio", "import modules"),
        ("callbacks.flip_ratio", "from modules.lit_videoar import LitVideoAR"),
        ("callbacks.flip_ratio", "from modules.autoregression import teacher_forcing"),
        ("callbacks.flip_ratio", "import datamodules.decoding.reader"),
        ("scripts.export", "import benchmarks.roofline"),
        ("modules.geometry", "import train"),
    ]:
        assert name in SOURCES and forbidden_imports(name, line), (name, line)


def test_there_is_no_import_circle() -> None:
    graph = {name: (imports(name, source) & SOURCES.keys()) - {name} for name, source in SOURCES.items()}
    assert sum(map(len, graph.values())) > len(graph)
    TopologicalSorter(graph).prepare()


def test_package_files_hold_a_docstring_and_their_exports_only() -> None:
    for name in SOURCES:
        if name.endswith("__init__"):
            documentation, *body = ast.parse(SOURCES[name]).body
            assert isinstance(documentation, ast.Expr) and all(isinstance(node, ast.ImportFrom | ast.Assign) for node in body), name
            imported = {alias.name for node in body if isinstance(node, ast.ImportFrom) for alias in node.names}
            exported = [ast.literal_eval(node.value) for node in body if isinstance(node, ast.Assign)]
            assert {each for names in exported for each in names} == imported, name


def test_docstrings_begin_with_the_thing_that_they_document() -> None:
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    beginning = re.compile(r"(What|How|Whether|Which|Who|All about)\b")
    nodes = [(name, node) for name, source in SOURCES.items() for node in ast.walk(ast.parse(source)) if isinstance(node, documented)]
    found = [(name, text.splitlines()[0]) for name, node in nodes if beginning.match(text := ast.get_docstring(node) or "")]
    assert not found


def test_no_file_is_too_long() -> None:
    files = [*ROOT.glob("*.py"), *(path for folder in (*PACKAGES, "tests") for path in (ROOT / folder).rglob("*.py"))]
    assert not [f"{path.relative_to(ROOT)}" for path in files if len(path.read_text().splitlines()) > MAX_FILE_LINES]


def test_functions_are_short() -> None:
    nodes = [node for source in SOURCES.values() for node in ast.walk(ast.parse(source))]
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = [node.name for node in functions if (node.end_lineno or 0) - node.lineno + 1 > MAX_FUNCTION_LINES]
    assert len(long) <= len(functions) / 10, long
