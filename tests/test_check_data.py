"""Dataset check: its report matches the files, and what training then uses."""

import json
from pathlib import Path

import pytest
from counted_clips import record
from hostile_files import turn_clockwise, write_video
from PIL import Image

from datamodules import VideoFolder
from datamodules.decoding.frames import UnreadableVideo
from modules.geometry import Clip
from scripts import check_data
from scripts.check_data import check, examine_all, text_of
from scripts.cli import run
from scripts.data_statistics import FileFacts, TrainingPlan, examine, summary
from scripts.ratio_histogram import count_ratios

PLAN = TrainingPlan(Clip(5, 32, 32, 8.0), batch_size=2, bits=8, spatial_factor=8)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten videos and a picture; a damaged video, a text, two rows of the same video and one that goes beyond its end."""
    folder = tmp_path_factory.mktemp("set")
    rows = []
    for number in range(10):
        path = write_video(folder / f"{number}.mkv", frames=20 + number)
        rows.append({"path": path.name, "caption": f"A red dog, number {number}", "label": "dog" if number < 7 else "cat"})
    content = bytearray((folder / "9.mkv").read_bytes())
    start = len(content) * 3 // 4  # behind the first frames, which are the largest
    content[start : start + 400] = bytes(400)
    (folder / "damaged.mkv").write_bytes(content)
    (folder / "text.mp4").write_text("no video")
    Image.new("RGB", (30, 60)).save(folder / "tall.png")
    rows += [{"path": "damaged.mkv"}, {"path": "text.mp4"}, {"path": "tall.png", "caption": "a tower"}]
    rows += [{"path": "0.mkv", "start": 0.1, "end": 0.7}, {"path": "1.mkv", "end": 5.0}]
    path = folder / "clips.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def test_a_video_is_measured_frame_by_frame(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", frames=30)
    assert examine(path) == FileFacts(48, 64, pytest.approx(1.2), 30, pytest.approx(25.0), even=True)
    turn_clockwise(path)
    assert examine(path)[:2] == examine(path, whole=False)[:2] == (64, 48)
    times = [0.0, 0.1, 0.2, 1.0, 1.1, 1.2]
    uneven = examine(write_video(tmp_path / "b.mkv", frames=6, times=times))
    assert not uneven.even and uneven.frames == 6 and uneven.seconds == pytest.approx(1.24, abs=0.01)
    Image.new("RGB", (30, 60)).save(tmp_path / "tall.png")
    assert examine(tmp_path / "tall.png") == FileFacts(60, 30, 0.0, 1, 0.0, even=None)


def test_damage_in_the_middle_is_found_by_decoding_all(manifest: Path) -> None:
    path = manifest.with_name("damaged.mkv")
    assert examine(path, whole=False).height == 48
    with pytest.raises(UnreadableVideo, match=r"damaged\.mkv: "):
        examine(path)


def test_the_report_is_what_there_is(manifest: Path, tmp_path: Path) -> None:
    run(check, [str(manifest), "--frames", "5", "--height", "32", "--width", "32", "--batch_size", "2", "--out", str(tmp_path / "out")])
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["rows"] == 15 and report["files"] == {"videos": 10, "pictures": 1, "unreadable": 2}
    assert [row["row"].rsplit(":", 1)[1] for row in report["unreadable"]] == ["11", "12", "15"]
    assert "the line goes to 5.000 s, the file to 0.840 s" in report["unreadable"][2]["reason"]
    assert report["frames"]["total"] == sum(range(20, 30)) and report["frames"]["median"] == 24.5
    assert report["seconds"]["least"] == pytest.approx(0.8) and report["seconds"]["most"] == pytest.approx(1.16)
    assert report["fps"] == {"25": 10} and report["sizes"] == {"48 x 64": 10, "60 x 30": 1} and report["uneven"] == 0
    words = report["captions"]
    assert words["rows"] == words["different"] == 11 and words["frequent words"]["dog"] == 10 and words["different words"] == 15
    assert words["words"] == {"least": 2, "median": 5, "mean": pytest.approx(52 / 11), "most": 5}
    assert report["labels"] == {"dog": 7, "cat": 3}
    assert Image.open(tmp_path / "out" / "ratios.png").width > 300


@pytest.mark.parametrize("frames", [1, 5])
def test_the_epoch_is_that_of_a_training(manifest: Path, tmp_path: Path, frames: int) -> None:
    plan = TrainingPlan(Clip(frames, 32, 32, 8.0), batch_size=2, bits=8, spatial_factor=8)
    data = VideoFolder(plan.clip, manifest=str(manifest), broken_limit=0.5, batch_size=2)
    rows = data._records
    report = summary(rows, examine_all(sorted({row.path for row in rows}), whole=True, workers=2, time_limit=30.0), plan)
    data.setup("fit")
    # Two rows more than can be used: training does not look at whole files beforehand.
    assert report["epoch"]["clips"] + report["epoch"]["held out"] == len(data.dataset("train")) + len(data.dataset("val")) - 2
    assert report["epoch"]["batches"] == report["epoch"]["clips"] // 2
    assert record(data, tmp_path, max_epochs=1).seen


def test_the_size_of_a_latent_cache(manifest: Path) -> None:
    assert PLAN.latent == (8, 2, 4, 4)
    text = text_of(report_of(manifest), PLAN)
    assert "8 x 2 x 4 x 4 values of 4 bytes: 1.0 kB per clip" in text


def report_of(manifest: Path) -> dict:
    rows = VideoFolder(manifest=str(manifest))._records
    return summary(rows, dict.fromkeys((row.path for row in rows), FileFacts(48, 64, 2.0, 50, 25.0, even=True)), PLAN)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["gone.jsonl"], "there is no file gone.jsonl"),
        (["MANIFEST", "--frames", "6"], r"frames must be 1 \+ 4 \* n, got 6"),
        (["MANIFEST", "--height", "60"], "height must be a multiple of 16, got 60"),
        (["MANIFEST", "--batch_size", "0"], "batch_size must be at least 1, got 0"),
        (["MANIFEST", "--where", '{"kind": "clip"}'], "no line of .* has {'kind': 'clip'}"),
    ],
)
def test_user_errors_are_one_line(manifest: Path, tmp_path: Path, options: list[str], error: str) -> None:
    with pytest.raises(SystemExit, match=f"error: {error}"):
        run(check, [str(manifest) if option == "MANIFEST" else option for option in options] + ["--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_ctrl_c_writes_nothing(manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(check_data, "parallel_map", interrupt)
    with pytest.raises((SystemExit, KeyboardInterrupt)):
        run(check, [str(manifest), "--out", str(tmp_path / "out"), "--workers", "1"])
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_several_rows_is_read_once(manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []

    def counting(path: Path, *rest: object) -> FileFacts:
        read.append(path)
        return examine(path, *rest)

    monkeypatch.setattr(check_data, "examine", counting)
    run(check, [str(manifest), "--workers", "1", "--out", str(tmp_path / "out")])
    assert len(read) == len(set(read)) == 13


def test_ratios_are_counted_in_their_bins() -> None:
    counts, edges = count_ratios([1.0, 1.001, 2.0, 0.5, 100.0, 0.001])
    middle = len(counts) // 2
    assert {number - middle: count for number, count in enumerate(counts) if count} == {0: 2, 12: 1, -12: 1, 24: 1, -24: 1}
    assert edges[middle] < 1 < edges[middle + 1]
