"""VBench's total scores, computed from its result files as on its leaderboard, as a report.json.

    python -m scripts.vbench_score evaluation_results/my_eval_results.json --out runs/vbench

VBench needs a separate environment. Its ``*_eval_results.json`` hold ``{"subject_consistency": [score, ...], ...}``; the dimensions may be
spread over several files. Constants: VBench's scripts, July 2024.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from modules.metrics import Evaluation, Measurement, provenance, write_report
from scripts.cli import run

# Lowest and highest score of a dimension, which are mapped to 0 and 1, and its weight.
QUALITY = {
    "subject_consistency": (0.1462, 1.0, 1.0),
    "background_consistency": (0.2615, 1.0, 1.0),
    "temporal_flickering": (0.6293, 1.0, 1.0),
    "motion_smoothness": (0.706, 0.9975, 1.0),
    "aesthetic_quality": (0.0, 1.0, 1.0),
    "imaging_quality": (0.0, 1.0, 1.0),
    "dynamic_degree": (0.0, 1.0, 0.5),
}
SEMANTIC = {
    "object_class": (0.0, 1.0, 1.0),
    "multiple_objects": (0.0, 1.0, 1.0),
    "human_action": (0.0, 1.0, 1.0),
    "color": (0.0, 1.0, 1.0),
    "spatial_relationship": (0.0, 1.0, 1.0),
    "scene": (0.0, 0.8222, 1.0),
    "appearance_style": (0.0009, 0.2855, 1.0),
    "temporal_style": (0.0, 0.364, 1.0),
    "overall_consistency": (0.0, 0.364, 1.0),
}
FROM_IMAGE = {"i2v_subject": (0.1462, 1.0, 1.0), "i2v_background": (0.2615, 1.0, 1.0), "camera_motion": (0.0, 1.0, 0.1)}
# VBench-I2V does not count temporal flickering.
QUALITY_FROM_IMAGE = {name: bounds for name, bounds in QUALITY.items() if name != "temporal_flickering"}


def totals(scores: Mapping[str, float]) -> dict[str, float]:
    """Return quality, semantic and total score of VBench, or image, quality and total score of VBench-I2V, each 0..1.

    Args:
        scores: Score of every dimension, 0..1; taken as VBench-I2V if a dimension of its own is among them.

    Raises:
        ValueError: If a dimension is unknown or missing. VBench counts a missing one as zero.
    """
    parts = {"quality": QUALITY, "semantic": SEMANTIC}
    if scores.keys() & FROM_IMAGE.keys():
        parts = {"image": FROM_IMAGE, "quality": QUALITY_FROM_IMAGE}
    known = {name for part in parts.values() for name in part}
    if missing := sorted(known - scores.keys()):
        raise ValueError(f"VBench scores lack {', '.join(missing)}; a total needs every dimension")
    if unknown := sorted(scores.keys() - known - QUALITY.keys()):
        raise ValueError(f"VBench has no dimension {', '.join(unknown)}")
    result = {name: _mean(scores, part) for name, part in parts.items()}
    first, second = result.values()
    total = (4 * first + second) / 5 if "semantic" in result else (first + second) / 2
    return result | {"total": total}


def read_scores(paths: Iterable[str | Path]) -> dict[str, float]:
    """Return the scores of all dimensions in VBench's files.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If a file is not VBench's, a dimension has two scores, or a score is outside 0..1.
    """
    scores: dict[str, float] = {}
    for path in paths:
        found = _scores_in(path)
        if twice := sorted(found.keys() & scores.keys()):
            raise ValueError(f"{path} scores {', '.join(twice)}, which another file does too")
        scores |= found
    if wrong := sorted(name for name, score in scores.items() if not 0 <= score <= 1):
        raise ValueError(f"scores of VBench are within 0..1; {wrong[0]} is {scores[wrong[0]]:g}")
    return scores


def measurements_of(scores: Mapping[str, float]) -> list[Measurement]:
    """Return totals first, then every dimension, in per cent as published."""
    numbers = {f"{name} score": value for name, value in reversed(totals(scores).items())} | dict(scores)
    return [Measurement(f"VBench {name.replace('_', ' ')} (%)", "generated", (100 * value,)) for name, value in numbers.items()]


def _scores_in(path: str | Path) -> dict[str, float]:
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} has no VBench scores: expected a mapping of dimensions")
    for name, scores in content.items():
        if not isinstance(scores, list) or not scores or not isinstance(scores[0], int | float):
            raise ValueError(f"{path} has no VBench score for {name}: expected a list that begins with a number")
    return {name: float(scores[0]) for name, scores in content.items()}


def _mean(scores: Mapping[str, float], part: Mapping[str, tuple[float, float, float]]) -> float:
    parts = [(weight, (scores[name] - lowest) / (highest - lowest)) for name, (lowest, highest, weight) in part.items()]
    return sum(weight * value for weight, value in parts) / sum(weight for weight, _ in parts)


def score(files: list[Path], *, out: Path, checkpoint: Path | None = None) -> None:
    """Compute VBench's total scores from its result files and write them to a report.json.

    Args:
        files: VBench's *_eval_results.json.
        out: Folder for report.json.
        checkpoint: Weights that made the videos, recorded by their hash.
    """
    if checkpoint and not checkpoint.is_file():
        raise FileNotFoundError(f"there is no file {checkpoint}")
    details = {"files": [str(file) for file in files]}
    evaluation = Evaluation(measurements_of(read_scores(files)), {"name": "VBench", "source": "VBench's own files"}, details)
    write_report(out / "report.json", {"evaluations": [evaluation.plain()], "provenance": provenance(checkpoint)})
    sys.stdout.write(evaluation.text())


if __name__ == "__main__":
    run(score)
