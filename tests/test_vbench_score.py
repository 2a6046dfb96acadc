"""VBench's totals are those that its authors publish."""

import json
from pathlib import Path

import pytest

from modules.metrics import read_report
from scripts import vbench_score
from scripts.cli import run

PAPER = {
    "subject_consistency": 95.51,
    "background_consistency": 97.85,
    "temporal_flickering": 98.83,
    "motion_smoothness": 98.37,
    "dynamic_degree": 61.39,
    "aesthetic_quality": 63.42,
    "imaging_quality": 60.71,
    "object_class": 94.98,
    "multiple_objects": 72.88,
    "human_action": 94.40,
    "color": 90.73,
    "spatial_relationship": 56.14,
    "scene": 50.52,
    "appearance_style": 22.68,
    "temporal_style": 25.11,
    "overall_consistency": 27.44,
}


def test_the_papers_row_adds_up_to_its_totals() -> None:
    """The quality score comes out as 82.89, where the paper, from unrounded scores, has 82.88."""
    found = vbench_score.totals({name: value / 100 for name, value in PAPER.items()})
    assert 100 * found["total"] == pytest.approx(81.74, abs=0.005) and 100 * found["semantic"] == pytest.approx(77.15, abs=0.005)
    assert 100 * found["quality"] == pytest.approx(82.88, abs=0.01)


def test_scores_of_several_files_become_one_report(tmp_path: Path) -> None:
    names = list(PAPER)
    for number, part in enumerate((names[:6], names[6:])):
        content = {name: [PAPER[name] / 100, [{"video_path": "a.mp4", "video_results": 1}]] for name in part}
        (tmp_path / f"{number}.json").write_text(json.dumps(content))
    files = [str(tmp_path / f"{number}.json") for number in range(2)]
    run(vbench_score.score, [*files, "--out", str(tmp_path / "out")])
    (evaluation,), _ = read_report(tmp_path / "out" / "report.json")
    rows = {row.metric: row.value for row in evaluation.measurements}
    assert rows["VBench total score (%)"] == pytest.approx(81.74, abs=0.005) and rows["VBench human action (%)"] == pytest.approx(94.4)
    with pytest.raises(ValueError, match="which another file does too"):
        vbench_score.read_scores([files[0], files[0]])


def test_vbench_scores_that_are_missing_or_wrong_are_refused(tmp_path: Path) -> None:
    scores = {name: value / 100 for name, value in PAPER.items()}
    with pytest.raises(ValueError, match="lack color, scene"):
        vbench_score.totals({name: value for name, value in scores.items() if name not in ("color", "scene")})
    with pytest.raises(ValueError, match="no dimension beauty"):
        vbench_score.totals(scores | {"beauty": 0.5})
    (tmp_path / "eval.json").write_text(json.dumps({"color": [90.0]}))
    with pytest.raises(ValueError, match="within 0..1; color is 90"):
        vbench_score.read_scores([tmp_path / "eval.json"])
    for text, message in (
        ("{}}", "eval.json is not JSON"),
        ("[1]", "eval.json has no VBench scores"),
        ('{"color": []}', "eval.json has no VBench score for color"),
        ('{"scene": "high"}', "eval.json has no VBench score for scene"),
    ):
        (tmp_path / "eval.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            vbench_score.read_scores([tmp_path / "eval.json"])
    with pytest.raises(FileNotFoundError, match="there is no file .*nothing.json"):
        vbench_score.read_scores([tmp_path / "nothing.json"])


def test_vbench_from_images_weighs_as_published() -> None:
    names = {*vbench_score.FROM_IMAGE, *vbench_score.QUALITY_FROM_IMAGE}
    ones = {name: (vbench_score.FROM_IMAGE | vbench_score.QUALITY)[name][1] for name in names}
    assert vbench_score.totals(ones)["total"] == pytest.approx(1.0)
    still = vbench_score.totals(ones | {"camera_motion": 0.0, "dynamic_degree": 0.0})
    assert still["image"] == pytest.approx(2 / 2.1) and still["quality"] == pytest.approx(5 / 5.5)
    assert still["total"] == pytest.approx((still["image"] + still["quality"]) / 2)
