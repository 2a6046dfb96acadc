"""Laws of whole files: every frame exactly once and in order, never more than needed in memory, and damage loses no other file."""

import logging
import weakref
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer
from PIL import Image
from test_reader import LEVELS, assert_levels, turn_clockwise, write_video
from torch import Tensor

import datamodules.predict.video_files
from datamodules import VideoFiles
from datamodules.decoding.frames import UnreadableVideo
from datamodules.decoding.pixels import pixels_of
from datamodules.predict.video_files import unique_names
from modules.batch import FileChunk


def chunks_of(*files: object, chunk_frames: int = 16) -> Iterator[FileChunk]:
    source = VideoFiles([str(file) for file in files], chunk_frames)
    source.setup("predict")
    return iter(source.predict_dataloader())


def video_of(chunks: list[FileChunk]) -> Tensor:
    """All frames of the chunks of one file, ``(3, T, H, W)``."""
    assert [chunk["first"] for chunk in chunks] == [True, *[False] * (len(chunks) - 1)]
    assert [chunk["last"] for chunk in chunks] == [*[False] * (len(chunks) - 1), True]
    assert len({(chunk["file"], chunk["name"], chunk["fps"]) for chunk in chunks}) == 1
    return torch.cat([chunk["video"] for chunk in chunks], dim=2)[0]


def decoded(path: Path) -> Tensor:
    """All frames of a file as they are stored."""
    with av.open(str(path)) as container:
        return torch.stack([pixels_of(frame) for frame in container.decode(video=0)], dim=1)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("videos") / "grey.mp4", LEVELS)


@pytest.mark.parametrize("chunk_frames", [1, 7, 16, 25, 49, 50, 51, 1000])
def test_chunks_are_the_file_without_gap_or_overlap(video: Path, chunk_frames: int) -> None:
    chunks = list(chunks_of(video, chunk_frames=chunk_frames))
    assert torch.equal(video_of(chunks), decoded(video))
    assert [chunk["video"].shape[2] for chunk in chunks[:-1]] == [chunk_frames] * (len(chunks) - 1)
    assert all(chunk["video"].dtype == torch.uint8 for chunk in chunks)
    assert (chunks[0]["file"], chunks[0]["name"], chunks[0]["fps"]) == (str(video), "grey", 25.0)


@pytest.mark.parametrize("chunk_frames", [1, 7])
def test_one_frame_is_read_ahead_and_no_chunk_is_kept(video: Path, monkeypatch: pytest.MonkeyPatch, chunk_frames: int) -> None:
    read: list[int] = []
    monkeypatch.setattr(datamodules.predict.video_files, "pixels_of", lambda frame: [pixels_of(frame), read.append(1)][0])
    chunks, shown, held = chunks_of(video, chunk_frames=chunk_frames), 0, []
    read.clear()  # the look at the beginning
    for chunk in chunks:
        shown += chunk["video"].shape[2]
        assert len(read) <= shown + 1
        held.append(weakref.ref(chunk["video"]._base))
        assert [memory() is not None for memory in held] == [*[False] * (len(held) - 1), True]
    assert shown == 50 and len(read) == 50


def test_irregular_times_become_the_mean_rate(tmp_path: Path) -> None:
    times, levels = [0.0, 0.1, 0.2, 1.0, 1.1, 1.2, 2.0], [0, 20, 40, 60, 80, 100, 120]
    path = write_video(tmp_path / "variable.mkv", levels, times)
    chunks = list(chunks_of(path))
    assert chunks[0]["fps"] == 25.0  # what this file says of itself
    nearest = [min(range(7), key=lambda place: (round(abs(times[place] - number / 25), 6), place)) for number in range(51)]
    assert_levels(video_of(chunks), [levels[place] for place in nearest])


def test_time_counts_from_the_first_frame(tmp_path: Path) -> None:
    path = write_video(tmp_path / "late.mkv", LEVELS[:25], [5 + number / 25 for number in range(25)])
    assert_levels(video_of(list(chunks_of(path))), LEVELS[:25])


@pytest.mark.parametrize(("name", "codec"), [("a.ts", "libx264"), ("a.avi", "mpeg4"), ("a.webm", "libvpx-vp9")])
def test_containers_agree(tmp_path: Path, name: str, codec: str) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"no {codec} here")
    path = write_video(tmp_path / name, LEVELS, codec=codec)
    assert torch.equal(video_of(list(chunks_of(path))), decoded(path))


def test_odd_sizes(tmp_path: Path) -> None:
    path = write_video(tmp_path / "odd.mkv", LEVELS[:5], codec="ffv1", size=(37, 53), pixels="yuv444p")
    found = video_of(list(chunks_of(path, chunk_frames=2)))
    assert found.shape == (3, 5, 37, 53) and torch.equal(found, decoded(path))


def test_rotation_marks_are_obeyed(tmp_path: Path) -> None:
    path = write_video(tmp_path / "phone.mp4", [100] * 5)
    turn_clockwise(path)
    found = video_of(list(chunks_of(path, chunk_frames=2))).int()
    assert found.shape == (3, 5, 64, 48)
    assert (found[:, :, 4] - 140).abs().max() <= 4 and (found[:, :, 60] - 100).abs().max() <= 4


def test_a_picture_is_a_video_of_one_frame(tmp_path: Path) -> None:
    Image.fromarray(np.full((31, 45, 3), (10, 200, 30), np.uint8)).save(tmp_path / "a.png")
    (chunk,) = chunks_of(tmp_path / "a.png")
    assert chunk["video"].shape == (1, 3, 1, 31, 45) and chunk["first"] and chunk["last"]
    assert chunk["video"][0, :, 0, 4, 4].tolist() == [10, 200, 30]


def test_a_folder_stands_for_its_videos(tmp_path: Path, video: Path) -> None:
    for name in ("b.mp4", "a.MP4", "notes.txt", ".b.mp4.part"):
        (tmp_path / name).write_bytes(video.read_bytes())
    (tmp_path / "folder.mp4").mkdir()
    chunks = list(chunks_of(tmp_path, tmp_path / "a.MP4", video, chunk_frames=50))
    assert [chunk["file"] for chunk in chunks] == [str(tmp_path / "a.MP4"), str(tmp_path / "b.mp4"), str(video)]


def test_names_are_unique() -> None:
    paths = ["x/a.mp4", "y/a.mp4", "y/A.mkv", "y/a_2.mp4", "z/a.b.mp4"]
    assert unique_names(paths) == ["a", "a_2", "A_3", "a_2_2", "a.b"]


def test_what_cannot_be_read_is_named_at_the_start(tmp_path: Path, video: Path) -> None:
    (tmp_path / "text.mp4").write_text("not a video\n" * 100)
    (tmp_path / "empty").mkdir()
    for name, reason in {"missing.mp4": "no such file", "text.mp4": "Invalid data"}.items():
        with pytest.raises(UnreadableVideo, match=f"{name}: .*{reason}"):
            chunks_of(video, tmp_path / name)
    with pytest.raises(ValueError, match="no video in the folder .*empty"):
        chunks_of(tmp_path / "empty")
    with pytest.raises(ValueError, match="at least one video"):
        VideoFiles([])
    with pytest.raises(ValueError, match="chunk_frames must be at least 1, got 0"):
        VideoFiles(["a.mp4"], chunk_frames=0)


def damaged(folder: Path, kind: str) -> Path:
    """A file of 50 frames of which only the first can be read."""
    if kind == "resized.ts":
        tail = write_video(folder / "tail.ts", LEVELS[30:], [1.28 + number / 25 for number in range(20)], size=(32, 80))
        path = write_video(folder / kind, LEVELS[:30])
        path.write_bytes(path.read_bytes() + tail.read_bytes())
        return path
    path = write_video(folder / kind, LEVELS, options={"movflags": "faststart"} if kind.endswith("mp4") else {})
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * (9 if kind.endswith("mp4") else 5) // 10])
    return path


@pytest.mark.parametrize("kind", ["cut.mp4", "cut.mkv", "resized.ts"])
@pytest.mark.parametrize("chunk_frames", [1, 4, 100])
def test_a_damaged_file_ends_early_and_loses_no_other(
    tmp_path: Path, video: Path, caplog: pytest.LogCaptureFixture, kind: str, chunk_frames: int
) -> None:
    broken = damaged(tmp_path, kind)
    with caplog.at_level(logging.WARNING):
        chunks = list(chunks_of(broken, video, chunk_frames=chunk_frames))
    found = video_of([chunk for chunk in chunks if chunk["file"] == str(broken)])
    frames = found.shape[1]
    assert 5 <= frames < 48
    assert_levels(found[:, :5], LEVELS[:5])  # what is cut off may take away some frames before it too
    assert f"{kind}: " in caplog.text and f"before {frames / 25:.3f} s" in caplog.text
    assert len(caplog.records) == 1
    if kind == "resized.ts":
        assert frames == 30 and "from 64 x 48 to 80 x 32 pixels" in caplog.text
    assert torch.equal(video_of([chunk for chunk in chunks if chunk["file"] == str(video)]), decoded(video))


@pytest.mark.parametrize("world", [1, 2, 5])
def test_processes_share_whole_files(tmp_path: Path, video: Path, monkeypatch: pytest.MonkeyPatch, world: int) -> None:
    for number in range(3):
        (tmp_path / f"{number}.mp4").write_bytes(video.read_bytes())
    read: list[str] = []
    for rank in range(world):
        monkeypatch.setattr(datamodules.predict.video_files, "rank_and_world_size", lambda rank=rank: (rank, world))
        chunks = list(chunks_of(tmp_path))
        own = list(dict.fromkeys(chunk["name"] for chunk in chunks))
        for name in own:
            assert video_of([chunk for chunk in chunks if chunk["name"] == name]).shape[1] == 50
        read += own
    assert sorted(read) == ["0", "1", "2"]


class Collector(LightningModule):
    """Notes what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.seen: list[tuple[str, int]] = []

    def predict_step(self, batch: FileChunk, batch_index: int) -> dict[str, Tensor]:
        self.seen.append((batch["name"], batch["video"].shape[2]))
        return {}

    def training_step(self, batch: FileChunk, batch_index: int) -> None: ...

    validation_step = test_step = training_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(default_root_dir=tmp_path, max_epochs=1, **quiet)  # type: ignore[arg-type]


def test_the_trainer_sees_every_chunk(video: Path, trainer: Trainer) -> None:
    collector = Collector()
    trainer.predict(collector, VideoFiles([str(video), str(video.parent)], 20), return_predictions=False)
    assert collector.seen == [("grey", 20), ("grey", 20), ("grey", 10)]


@pytest.mark.filterwarnings("ignore:.*Skipping val loop")
@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
def test_files_are_for_predict_alone(video: Path, trainer: Trainer, stage: str) -> None:
    with pytest.raises(ValueError, match="VideoFiles supports only predict"):
        getattr(trainer, stage)(Collector(), VideoFiles([str(video)]))
