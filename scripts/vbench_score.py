"""The scores that VBench wrote, added up as its leaderboard does, in the form of all other evaluations.

    python -m scripts.vbench_score evaluation_results/my_eval_results.json --out runs/vbench

VBench itself needs an environment of its own. Its ``*_eval_results.json`` hold ``{"subject_consistency": [score, ...], ...}``; several
files, of some dimensions each, may be given. Constants: VBench's scripts, July 2024.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from modules.metrics.evaluation.results import Results, Row, origin, table

# Lowest and highest score of a dimension, between which it is spread over 0..1, and its weight.
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
FROM_PICTURE = {"i2v_subject": (0.1462, 1.0, 1.0), "i2v_background": (0.2615, 1.0, 1.0), "camera_motion": (0.0, 1.0, 0.1)}
# Without flicker, which VBench-I2V does not count.
QUALITY_FROM_PICTURE = {name: bounds for name, bounds in QUALITY.items() if name != "temporal_flickering"}


def totals(scores: Mapping[str, float]) -> dict[str, float]:
    """Quality, semantic and total score of VBench, or picture, quality and total score of VBench-I2V, each 0..1.

    Args:
        scores: Score of every dimension, 0..1; those of VBench-I2V if one of its own is among them.

    Raises:
        ValueError: If a dimension is missing, which VBench would count as zero, or unknown.
    """
    parts = {"quality": QUALITY, "semantic": SEMANTIC}
    if scores.keys() & FROM_PICTURE.keys():
        parts = {"picture": FROM_PICTURE, "quality": QUALITY_FROM_PICTURE}
    known = {name for part in parts.values() for name in part}
    if missing := sorted(known - scores.keys()):
        raise ValueError(f"VBench scores lack {', '.join(missing)}; a total needs every dimension")
    if strangers := sorted(scores.keys() - known - QUALITY.keys()):
        raise ValueError(f"VBench has no dimension {', '.join(strangers)}")
    result = {name: _mean(scores, part) for name, part in parts.items()}
    first, second = result.values()
    total = (4 * first + second) / 5 if "semantic" in result else (first + second) / 2
    return result | {"total": total}


def read_scores(paths: Iterable[str | Path]) -> dict[str, float]:
    """Scores of all dimensions in some of VBench's files.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a file is not VBench's, or a dimension has two scores.
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


def rows_of(scores: Mapping[str, float]) -> list[Row]:
    """Totals first, then every dimension, in per cent as they are published."""
    numbers = {f"{name} score": value for name, value in reversed(totals(scores).items())} | dict(scores)
    return [Row(f"VBench {name.replace('_', ' ')} (%)", "generated", (100 * value,)) for name, value in numbers.items()]


def _scores_in(path: str | Path) -> dict[str, float]:
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no scores of VBench, which are a mapping of dimensions")
    for name, scores in content.items():
        if not isinstance(scores, list) or not scores or not isinstance(scores[0], int | float):
            raise ValueError(f"{path} holds no score of VBench for {name}, which would be a list that begins with a number")
    return {name: float(scores[0]) for name, scores in content.items()}


def _mean(scores: Mapping[str, float], part: Mapping[str, tuple[float, float, float]]) -> float:
    parts = [(weight, (scores[name] - lowest) / (highest - lowest)) for name, (lowest, highest, weight) in part.items()]
    return sum(weight * value for weight, value in parts) / sum(weight for weight, _ in parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", help="VBench's *_eval_results.json")
    parser.add_argument("--out", type=Path, required=True, help="folder for results.json")
    parser.add_argument("--checkpoint", help="the weights that made the videos, to be named by their hash")
    options = parser.parse_args()
    rows = rows_of(read_scores(options.files))
    if options.checkpoint and not Path(options.checkpoint).is_file():
        raise FileNotFoundError(f"there is no file {options.checkpoint}")
    results = Results(rows, {"name": "VBench", "source": "VBench's own files"}, origin(options.checkpoint, files=options.files))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "results.json").write_text(results.text(), encoding="utf-8")
    sys.stdout.write(f"protocol VBench\n{table(rows)}\n")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
