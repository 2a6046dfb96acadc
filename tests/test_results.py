"""One file per evaluation, read back as it was written; tables keep protocols apart; two folders are compared by one command."""

import hashlib
import json
import math
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from toy_runs import CONFIGS

from modules.geometry import Clip
from modules.metrics import Protocol, Results, Row, origin, table
from modules.metrics.evaluation.drift import MEASURES, drift_curves, drift_rows
from scripts import collect_results, compare_folders, vbench_score
from scripts.export_digits import export

PROTOCOLS = sorted((CONFIGS / "protocol").glob("*.yaml"))


def test_a_file_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    rows = [Row("FVD", "generated", (90.0, 94.0), 10.0, 2048, "not tats: 1 seeds"), Row("psnr", "", (math.inf,))]
    (tmp_path / "results.json").write_text(Results(rows, {"name": "tats"}, {"command": "python"}).text())
    found = Results.read(tmp_path / "results.json")
    assert found.rows[0] == rows[0] and found.rows[0].value == 92.0 and found.rows[0].spread == pytest.approx(8**0.5)
    assert math.isnan(found.rows[1].value) and rows[1].spread is None
    assert json.loads((tmp_path / "results.json").read_text())["results"][1]["value"] is None


EMPTY = '{"results": [{"metric": "x", "of": "", "values": [], "floor": null, "clips": 1, "note": ""}], "protocol": {}, "origin": {}}'


@pytest.mark.parametrize("text", ["{", "[]", '{"results": [{}], "protocol": {}, "origin": {}}', EMPTY])
def test_other_files_are_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(ValueError, match="results.json holds no results of an evaluation"):
        Results.read(tmp_path / "results.json")


def test_weights_are_named_by_their_hash(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").write_bytes(b"weights")
    about = origin(tmp_path / "last.ckpt", more=1)
    assert about["checkpoint_sha256"] == hashlib.sha256(b"weights").hexdigest()
    assert about["more"] == 1 and about["versions"]["torch"] == torch.__version__ and about["command"].startswith("python ")
    assert origin(None)["checkpoint"] is None and origin("gone.ckpt")["checkpoint_sha256"] is None


def written(folder: Path, protocol: str, value: float) -> None:
    folder.mkdir(parents=True)
    rows = [Row("FVD", "generated", (value, value + 2), 12.5, 64), Row("accuracy/frame0_scale1", "", (0.5,))]
    (folder / "results.json").write_text(Results(rows, {"name": protocol}, {"command": f"python {folder.name}"}).text())


def test_protocols_stand_in_different_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    written(tmp_path / "a", "tats", 90.0)
    written(tmp_path / "deep" / "b", "larp", 50.0)
    written(tmp_path / "c", "tats", 80.0)
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path)])
    collect_results.main()
    text = (tmp_path / "results.md").read_text()
    assert text == capsys.readouterr().out
    first, second = text.split("## Protocol ")[1:]
    assert first.startswith("tats") and "| a | FVD | generated | 91 ± 1.414 (2 seeds) | 12.5 | 64 |" in first and "| c |" in first
    assert second.startswith("larp") and "deep/b" in second and "scale1" not in text
    assert "scale1" in collect_results.markdown(collect_results.collect(tmp_path), everything=True)


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no results.json"):
        collect_results.collect(tmp_path)


def test_a_picture_shows_what_has_a_floor(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    written(tmp_path / "a", "tats", 90.0)
    assert (
        collect_results.plot(tmp_path / "results.png", collect_results.collect(tmp_path))
        and (tmp_path / "results.png").stat().st_size > 1000
    )
    assert not collect_results.plot(tmp_path / "none.png", [("bare", Results([Row("psnr", "", (20.0,))]))])


def test_text_tables_line_up() -> None:
    lines = table([Row("FVD", "real", (1.0,)), Row("FVD", "generated", (123456.0, 1.0), 2.0, 10, "a remark")]).splitlines()
    assert len({line.rindex(" ") for line in lines[:1]}) == 1 and lines[-1] == "generated: a remark" and lines[2].endswith("10")


@pytest.mark.parametrize("path", PROTOCOLS, ids=lambda path: path.stem)
def test_presets_are_protocols_named_like_their_file(path: Path) -> None:
    preset = Protocol(**yaml.safe_load(path.read_text()))
    assert preset.name.startswith(path.stem) and preset.source
    assert path.stem == "own" or (preset.features == "FVD" and preset.height == preset.width == 128 and preset.clips in (2048, 10000))


@pytest.mark.parametrize("field", ["frames", "clips", "fps", "repeats"])
def test_protocols_refuse_nonsense(field: str) -> None:
    with pytest.raises(ValueError, match=f"protocol x: {field} must be positive, got 0"):
        Protocol("x", **{field: 0})


# VBench

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


def test_scores_of_several_files_become_one_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = list(PAPER)
    for number, part in enumerate((names[:6], names[6:])):
        content = {name: [PAPER[name] / 100, [{"video_path": "a.mp4", "video_results": 1}]] for name in part}
        (tmp_path / f"{number}.json").write_text(json.dumps(content))
    files = [str(tmp_path / f"{number}.json") for number in range(2)]
    monkeypatch.setattr(sys, "argv", ["vbench", *files, "--out", str(tmp_path / "out")])
    vbench_score.main()
    rows = {row.metric: row.value for row in Results.read(tmp_path / "out" / "results.json").rows}
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
        ("{}}", "eval.json is no JSON"),
        ("[1]", "eval.json holds no scores of VBench"),
        ('{"color": []}', "eval.json holds no score of VBench for color"),
        ('{"scene": "high"}', "eval.json holds no score of VBench for scene"),
    ):
        (tmp_path / "eval.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            vbench_score.read_scores([tmp_path / "eval.json"])
    with pytest.raises(FileNotFoundError, match="there is no file .*nothing.json"):
        vbench_score.read_scores([tmp_path / "nothing.json"])


def test_vbench_from_pictures_weighs_as_published() -> None:
    names = {*vbench_score.FROM_PICTURE, *vbench_score.QUALITY_FROM_PICTURE}
    ones = {name: (vbench_score.FROM_PICTURE | vbench_score.QUALITY)[name][1] for name in names}
    assert vbench_score.totals(ones)["total"] == pytest.approx(1.0)
    still = vbench_score.totals(ones | {"camera_motion": 0.0, "dynamic_degree": 0.0})
    assert still["picture"] == pytest.approx(2 / 2.1) and still["quality"] == pytest.approx(5 / 5.5)
    assert still["total"] == pytest.approx((still["picture"] + still["quality"]) / 2)


# Drift


def test_curves_see_blur_stillness_and_colour() -> None:
    video = torch.randint(256, (2, 3, 6, 16, 16), dtype=torch.uint8)
    sharp, motion, colour = drift_curves(video, reference=2).unbind(1)
    flat = torch.nn.functional.avg_pool3d(video.float(), (1, 3, 3), (1, 1, 1)).to(torch.uint8)
    assert (drift_curves(flat, 2)[:, 0] < 0.7 * sharp).all()
    assert drift_curves(video[:, :, :1].expand_as(video), 2)[:, 1].eq(0).all() and motion[:, 0].eq(0).all() and motion[:, 1:].gt(0).all()
    assert colour[:, 2].eq(0).all() and colour[:, [0, 5]].gt(0).all()
    brighter = torch.stack([torch.full((3, 8, 8), 10 * frame, dtype=torch.uint8) for frame in range(4)], dim=1)[None]
    torch.testing.assert_close(drift_curves(brighter, 1)[0, 2], torch.tensor([10.0, 0.0, 10.0, 20.0]).double() * 3**0.5)


def test_rows_are_means_over_spans() -> None:
    real, made = torch.ones(len(MEASURES), 4), torch.arange(10.0).expand(len(MEASURES), 10)
    rows = [row for row in drift_rows(real, [made, made + 1], 5) if row.metric.startswith("colour")]
    assert [row.values for row in rows] == [(1.0,), (1.5, 2.5), (5.5, 6.5), (7.5, 8.5)]
    assert len(drift_rows(real, [made[:, :4]], 5)) == 2 * len(MEASURES)


# Two folders


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("folders")
    export(root / "one", 12, Clip(6, 16, 16))
    export(root / "other" / "deep", 10, Clip(6, 16, 16), seed=1)
    return root / "one", root / "other"


def test_a_folder_has_no_distance_from_itself(folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    one, other = folders
    settings = ["--features.widths", "[2]", "--protocol.frames", "5"]
    same = compare_folders.main([str(one), str(one), str(tmp_path / "same"), *settings])
    rows = {row.of: row for row in same.rows if "Fréchet" in row.metric}
    assert rows["made"].value == pytest.approx(0.0, abs=1e-6) and rows["static"].value > rows["real"].value > 0
    assert rows["made"].clips == 12 and rows["real"].clips == 6
    found = Results.read(tmp_path / "same" / "results.json")
    assert found.origin["reference"] == str(one) and found.origin["clip"]["height"] == 16 and "protocol own" in capsys.readouterr().out
    differ = compare_folders.main([str(other), str(one), str(tmp_path / "differ"), *settings])
    assert next(row for row in differ.rows if row.of == "made").value > 1e-4


def test_videos_that_cannot_be_used_are_left_out(folders: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one, _ = folders
    shutil.copytree(one, tmp_path / "mixed")
    (tmp_path / "mixed" / "broken.mp4").write_bytes(b"no video")
    results = compare_folders.main([str(tmp_path / "mixed"), str(one), str(tmp_path), "--features.widths", "[2]", "--protocol.frames", "6"])
    assert {row.of: row.clips for row in results.rows}["made"] == 12 and "1 of 13 videos were left out" in caplog.text
    with pytest.raises(ValueError, match="fewer than two of 12 videos have 99 frames"):
        compare_folders.main([str(one), str(one), str(tmp_path), "--protocol.frames", "99"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty must hold at least two videos, it has 0"):
        compare_folders.main([str(one), str(tmp_path / "empty"), str(tmp_path)])
