"""Names that earlier versions used in configurations and on the command line, and the names that replaced them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

# Last component of a class path.
CLASSES = {
    "Adversary": "AdversarialLoss",
    "Announce": "PrintRunSummary",
    "Beginning": "StageOverride",
    "GuardSteps": "SkipNonFiniteSteps",
    "LatentMemory": "InMemoryLatentCache",
    "RolloutJudge": "RolloutClassifier",
    "TokenKeeping": "KVCacheWindow",
}
# Classes that are named with their module, which moved.
MODULES = {
    "benchmarks.rollout_judge": "experiments.rollout_classifier",
    "benchmarks.shared_latents": "experiments.shared_latents",
    "modules.sharding": "modules.training.fsdp",
}
# Keys without init_args; * stands for any part of a key.
KEYS = {
    "data.held_out_share": "held_out_fraction",
    "data.parts.*.held_out_share": "held_out_fraction",
    "data.parts.*.until": "milestones",
    "data.until": "milestones",
    "model.adversary": "adversarial",
    "model.critic_optimizer": "discriminator_optimizer",
    "model.extension": "long_video",
    "model.memory": "latent_cache",
    "model.transformer.execution.recompute": "activation_checkpointing",
    "model.transformer.rope.shares": "sections",
    "trainer.callbacks.numbers": "dtype",
}
# Arguments of one class, with the replacement as words: a KEYS entry would also match those of other classes in the same list.
ARGUMENTS = {("FlipRatioSchedule", "warmup_steps"): "ramp linear with end_step"}


def check_arguments(arguments: Sequence[str]) -> None:
    """Refuse old names on a command line and in the configuration files that it names.

    Raises:
        ValueError: If there are any; it lists all of the command line or of a file, with their replacements.
    """
    options = list(_options(arguments))
    _refuse("the command line", itertools.chain.from_iterable(_in_option(name, value) for name, value in options))
    for name, value in options:
        if value.endswith((".yaml", ".yml")) and Path(value).is_file():
            check_config(_read(Path(value)), value, "" if name in ("c", "config") else name)


def check_config(config: Any, source: str | Path, key: str = "") -> None:
    """Refuse old names in settings.

    Args:
        config: Nested settings as YAML has them.
        source: Where they are from, for the message.
        key: The key whose value they are.

    Raises:
        ValueError: If there are any; it lists all of them with their replacements.
    """
    _refuse(source, _in_config(config, key))


def _refuse(source: str | Path, found: Iterable[tuple[str, str]]) -> None:
    if names := dict(found):
        changes = ", ".join(f"{old} is now {new}" for old, new in names.items())
        raise ValueError(f"{source} uses names of an earlier version: {changes}")


def _options(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Names and values of the options of a command line."""
    for argument, following in itertools.zip_longest(arguments, arguments[1:], fillvalue=""):
        name, equals, value = argument.partition("=")
        if name.startswith("-"):
            yield name.lstrip("-").rstrip("+").replace(".init_args", ""), value if equals else following


def _in_option(name: str, value: str) -> Iterator[tuple[str, str]]:
    parts = name.split(".")
    for length in range(2, len(parts) + 1):
        yield from _key(".".join(parts[:length]))
    yield from _class(value)


def _in_config(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        yield from _arguments(value)
        for name, inner in value.items():
            if name == "class_path":
                yield from _class(str(inner))
            else:
                path = key if name == "init_args" else f"{key}.{name}".lstrip(".")
                yield from _key(path)
                yield from _in_config(inner, path)
    elif isinstance(value, list):
        for inner in value:
            yield from _in_config(inner, key)


def _key(key: str) -> Iterator[tuple[str, str]]:
    for old, new in KEYS.items():
        if fnmatchcase(key, old):
            yield key, f"{key.rpartition('.')[0]}.{new}"


def _arguments(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    kind = str(config.get("class_path", "")).rpartition(".")[2]
    for (old_class, old), new in ARGUMENTS.items():
        if kind == old_class and old in (config.get("init_args") or {}):
            yield f"{kind}.{old}", new


def _class(path: str) -> Iterator[tuple[str, str]]:
    module, dot, name = path.rpartition(".")
    new = f"{MODULES.get(module, module)}{dot}{CLASSES.get(name, name)}"
    if new != path:
        yield path, new


def _read(path: Path) -> Any:
    """Return the content of a configuration file, or None for one that the parser will refuse."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        return None
