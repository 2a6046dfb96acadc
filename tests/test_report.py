"""Reports read back as written, tables separate protocols, presets are protocols, drift curves measure what they are named after."""

import hashlib
import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from toy_runs import CONFIGS

from modules.metrics import Evaluation, Measurement, Protocol, markdown_table, provenance, read_report, write_report
from modules.metrics.evaluation.drift import MEASURES, drift_curves, drift_measurements
from modules.metrics.table import mean_and_deviation
from scripts.cli import run
from scripts.collect_results import collect, markdown, read_reports


def test_a_report_is_read_back_as_written(tmp_path: Path) -> None:
    rows = [Measurement("FVD", "generated", (90.0, 94.0), 10.0, 2048, "not tats: 1 seeds"), Measurement("psnr", "", (math.inf,))]
    evaluation = Evaluation(rows, {"name": "tats"}, {"limit": 3})
    write_report(tmp_path / "report.json", {"evaluations": [evaluation.plain()], "provenance": {"commit": "abc"}})
    (found,), made_by = read_report(tmp_path / "report.json")
    assert found.measurements[0] == rows[0] and found.measurements[0].value == 92.0 and made_by == {"commit": "abc"}
    assert found.measurements[0].spread == pytest.approx(8**0.5) and found.protocol["name"] == "tats" and found.details["limit"] == 3
    assert math.isnan(found.measurements[1].value) and rows[1].spread is None
    assert json.loads((tmp_path / "report.json").read_text())["evaluations"][0]["results"][1]["value"] is None


def test_values_of_the_test_clips_are_read_too(tmp_path: Path) -> None:
    report = {"protocol": {"clips": 8, "frames": 5, "checkpoint": "a"}, "metrics": {"test/loss": 0.5, "val/loss": 1.0}, "evaluations": []}
    judge = {"real": {"digit": 1.0, "curve": [1.0, 2.0], "undefined": None, "clips": 8}}
    write_report(tmp_path / "report.json", report | {"judge": judge, "provenance": {}})
    (found,), _ = read_report(tmp_path / "report.json")
    assert found.protocol == {"name": "test clips", "clips": 8, "frames": 5}
    values = {(each.metric, each.of): each.value for each in found.measurements}
    assert values.keys() == {("loss", ""), ("digit", "real"), ("undefined", "real")} and values["loss", ""] == 0.5


def test_other_files_are_refused_by_name(tmp_path: Path) -> None:
    empty = {"metric": "x", "of": "", "values": [], "real_vs_real": None, "clips": 1, "note": ""}
    wrong = [{"evaluations": [{"results": [row], "protocol": {}, "details": {}}], "provenance": {}} for row in ({}, empty)]
    for text in ("{", "[]", *map(json.dumps, wrong)):
        (tmp_path / "report.json").write_text(text)
        with pytest.raises(ValueError, match="report.json is not a report of an evaluation"):
            read_report(tmp_path / "report.json")


def test_weights_are_identified_by_their_hash(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").write_bytes(b"weights")
    about = provenance(tmp_path / "last.ckpt", more=1)
    assert about["checkpoint_sha256"] == hashlib.sha256(b"weights").hexdigest()
    assert about["more"] == 1 and about["libraries"]["torch"] == torch.__version__ and about["command"]
    assert provenance(None)["checkpoint"] is None and provenance("gone.ckpt")["checkpoint_sha256"] is None


def write_example(folder: Path, protocol: str, value: float) -> None:
    rows = [Measurement("FVD", "generated", (value, value + 2), 12.5, 64), Measurement("accuracy/frame0_scale1", "", (0.5,))]
    write_report(folder / "report.json", {"evaluations": [Evaluation(rows, {"name": protocol}).plain()], "provenance": {}})


def test_collected_protocols_have_separate_tables(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_example(tmp_path / "a", "tats", 90.0)
    write_example(tmp_path / "deep" / "b", "larp", 50.0)
    write_example(tmp_path / "c", "tats", 80.0)
    run(collect, [str(tmp_path)])
    text = (tmp_path / "results.md").read_text()
    assert text == capsys.readouterr().out
    first, second = text.split("## Protocol ")[1:]
    cells = [cell.strip() for cell in next(line for line in first.splitlines() if line.startswith("| a")).split("|")]
    assert first.startswith("tats") and cells[1:-2] == ["a", "FVD", "generated", "91 ± 1.4 (2 seeds)", "12.5", "64"] and "| c " in first
    assert second.startswith("larp") and "deep/b" in second and "scale1" not in text
    assert "scale1" in markdown(read_reports(tmp_path), all_scales=True)
    pytest.importorskip("matplotlib")
    assert (tmp_path / "results.png").stat().st_size > 1000


def test_a_folder_without_reports_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no report.json"):
        read_reports(tmp_path)


def test_tables_are_aligned() -> None:
    lines = markdown_table(["", "value"], [["long name", "1"], ["b", "12.345"]]).splitlines()
    assert lines[0] == "|           | value  |" and lines[1] == "| --------- | ------ |" and {len(line) for line in lines} == {22}
    assert mean_and_deviation([]) == "" and mean_and_deviation([2.0]) == "2" and mean_and_deviation([1.0, 2.0], 3) == "1.5 ± 0.71"


def test_presets_are_protocols_named_like_their_file() -> None:
    for path in (CONFIGS / "protocol").glob("*.yaml"):
        preset = Protocol(**yaml.safe_load(path.read_text()))
        assert preset.name.startswith(path.stem) and preset.source
        published = preset.features == "FVD" and preset.height == preset.width == 128 and preset.clips in (2048, 10000)
        assert path.stem == "own" or published, path.stem


def test_protocols_refuse_values_that_are_not_positive() -> None:
    for field in ("frames", "clips", "fps", "repeats"):
        with pytest.raises(ValueError, match=f"protocol x: {field} must be positive, got 0"):
            Protocol("x", **{field: 0})


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
    rows = [row for row in drift_measurements(real, [made, made + 1], 5) if row.metric.startswith("colour")]
    assert [row.values for row in rows] == [(1.0,), (1.5, 2.5), (5.5, 6.5), (7.5, 8.5)]
    assert len(drift_measurements(real, [made[:, :4]], 5)) == 2 * len(MEASURES)
