"""Two folders of videos are compared by one command."""

import shutil
from pathlib import Path

import pytest
import torch

from modules.geometry import Clip
from modules.metrics import RandomFeatures, read_report
from scripts.cli import run
from scripts.compare_folders import compare, features_of, videos_in
from scripts.export_digits import export


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("folders")
    export(root / "one", 12, Clip(6, 16, 16))
    export(root / "other" / "deep", 10, Clip(6, 16, 16), seed=1)
    return root / "one", root / "other"


def test_a_folder_has_no_distance_from_itself(folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    one, other = folders
    settings = ["--features.widths", "[2]", "--protocol.frames", "5"]
    same = run(compare, [str(one), str(one), str(tmp_path / "same"), *settings])
    rows = {row.of: row for row in same.measurements if "Fréchet" in row.metric}
    assert rows["made"].value == pytest.approx(0.0, abs=1e-6) and rows["static"].value > rows["real"].value > 0
    assert rows["made"].clips == 12 and rows["real"].clips == 6
    (found,), _ = read_report(tmp_path / "same" / "report.json")
    assert found.details["reference"] == str(one) and found.details["clip"]["height"] == 16 and "protocol own" in capsys.readouterr().out
    differ = run(compare, [str(other), str(one), str(tmp_path / "differ"), *settings])
    assert next(row for row in differ.measurements if row.of == "made").value > 1e-4


def test_unreadable_videos_are_skipped(folders: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one, _ = folders
    shutil.copytree(one, tmp_path / "mixed")
    (tmp_path / "mixed" / "broken.mp4").write_bytes(b"no video")
    results = run(compare, [str(tmp_path / "mixed"), str(one), str(tmp_path), "--features.widths", "[2]", "--protocol.frames", "6"])
    assert {row.of: row.clips for row in results.measurements}["made"] == 12 and "1 of 13 videos were skipped" in caplog.text
    with pytest.raises(SystemExit, match="fewer than two of 12 videos have 99 frames"):
        run(compare, [str(one), str(one), str(tmp_path), "--protocol.frames", "99"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match="empty must hold at least two videos, it has 0"):
        run(compare, [str(one), str(tmp_path / "empty"), str(tmp_path)])


def test_the_first_videos_are_compared_whatever_the_batch_size(folders: tuple[Path, Path]) -> None:
    files, network = videos_in(str(folders[0])), RandomFeatures(widths=(2,))
    clip = Clip(6, 16, 16, 8.0)
    three, static = features_of(files, 3, clip, network, batch_size=2)
    assert three.shape == static.shape == (3, network.num_features)
    torch.testing.assert_close(features_of(files, None, clip, network, batch_size=5)[0][:3], three)
