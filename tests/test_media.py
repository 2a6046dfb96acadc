"""Written clips read back as they were, and sheets show every clip."""

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from callbacks import Mp4Writer, contact_sheet, write_mp4, write_preview
from modules.storage.atomic_files import atomic_write


def moving_square(frames: int = 9, height: int = 32, width: int = 48) -> Tensor:
    """A grey-blue square on dark ground, ``(3, T, H, W)`` uint8; all frames differ."""
    video = torch.full((3, frames, height, width), 30, dtype=torch.uint8)
    for frame in range(frames):
        left = 2 * frame % (width - 8)
        video[:, frame, 8:16, left : left + 8] = torch.tensor([120, 140, 200], dtype=torch.uint8)[:, None, None]
    return video


def read_mp4(path: Path) -> tuple[Tensor, float]:
    with av.open(str(path)) as container:
        frames = [torch.from_numpy(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
        rate = container.streams.video[0].average_rate
        assert rate is not None
        return torch.stack(frames).permute(3, 0, 1, 2), float(rate)


def test_mp4_reads_back(tmp_path: Path) -> None:
    video = moving_square()
    for fps in (8.0, 12.5, 23.976):
        write_mp4(tmp_path / "deep" / "clip.mp4", video, fps)
        read, read_fps = read_mp4(tmp_path / "deep" / "clip.mp4")
        assert read.shape == video.shape
        assert read_fps == pytest.approx(fps)
        assert (read.float() - video.float()).abs().mean() < 3.0
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["clip.mp4"]


def test_mp4_pads_odd_sizes(tmp_path: Path) -> None:
    video = moving_square(frames=1, height=31, width=45)
    write_mp4(tmp_path / "clip.mp4", video, 8.0)
    read, _ = read_mp4(tmp_path / "clip.mp4")
    assert read.shape == (3, 1, 32, 46)
    assert (read[..., :31, :45].float() - video.float()).abs().mean() < 3.0


@pytest.mark.parametrize("kind", ["webp", "gif"])
def test_preview_of_few_colours_is_lossless_and_magnified(tmp_path: Path, kind: str) -> None:
    video = moving_square()
    write_preview(tmp_path / f"clip.{kind}", video, fps=30.0, magnify=3)
    with Image.open(tmp_path / f"clip.{kind}") as animation:
        assert (animation.n_frames, animation.size, animation.info["loop"]) == (9, (144, 96), 0)
        times = []
        for frame in range(9):
            animation.seek(frame)
            shown = torch.from_numpy(np.array(animation.convert("RGB"))).permute(2, 0, 1)
            assert torch.equal(shown[:, 1::3, 1::3], video[:, frame])
            times.append(animation.info["duration"])
    assert sum(times) == 300


def test_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_write(tmp_path / "report.json") as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    assert (tmp_path / "report.json").read_text() == "old"


def test_contact_sheet_shows_first_and_last_frame_of_every_clip() -> None:
    clips = [torch.full((3, 5, 32, 32), 10 * number, dtype=torch.uint8) for number in range(1, 4)]
    for number, clip in enumerate(clips, start=1):
        clip[0] += 40 * torch.arange(5, dtype=torch.uint8)[:, None, None]
        assert clip[0, 4, 0, 0] == 160 + 10 * number
    pixels = np.array(contact_sheet(clips, ["one", "two\nlines", "a text " * 40], columns=3)).reshape(-1, 3)
    for number in range(1, 4):
        for frame in (0, 2, 4):
            colour = (40 * frame + 10 * number, 10 * number, 10 * number)
            assert (pixels == colour).all(axis=1).sum() == 96 * 96, colour


def test_contact_sheet_mixes_lengths_and_sizes() -> None:
    clips = [moving_square(), moving_square(frames=1), moving_square(frames=3, height=64, width=700)]
    assert contact_sheet(clips, ["a", "b", "c"], columns=4, group=2).width > 3 * 320


def test_refusals(tmp_path: Path) -> None:
    video = moving_square()
    with pytest.raises(TypeError, match="float32"):
        write_mp4(tmp_path / "clip.mp4", video.float(), 8.0)
    with pytest.raises(ValueError, match="9, 3, 32, 48"):
        write_mp4(tmp_path / "clip.mp4", video.transpose(0, 1), 8.0)
    with pytest.raises(ValueError, match="got -1"):
        write_preview(tmp_path / "clip.webp", video, -1)
    with pytest.raises(ValueError, match="magnify must be at least 1, got 0"):
        write_preview(tmp_path / "clip.webp", video, 8.0, magnify=0)
    with pytest.raises(ValueError, match=r"ends in \.webp or \.gif, got .*clip\.png"):
        write_preview(tmp_path / "clip.png", video, 8.0)
    with pytest.raises(ValueError, match="2 clips and 1 captions"):
        contact_sheet([video, video], ["one"])
    assert not list(tmp_path.iterdir())


def test_pieces_make_the_same_mp4_as_the_whole(tmp_path: Path) -> None:
    video = moving_square(frames=9, height=31)
    write_mp4(tmp_path / "whole.mp4", video, 8.0)
    with Mp4Writer(tmp_path / "pieces.mp4", 8.0) as writer:
        for piece in video.split([1, 5, 3], dim=1):
            writer.append(piece)
            assert not (tmp_path / "pieces.mp4").exists()
    assert (tmp_path / "pieces.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()


def test_mp4_that_goes_wrong_leaves_the_old_one(tmp_path: Path) -> None:
    path, video = tmp_path / "clip.mp4", moving_square()
    write_mp4(path, video, 8.0)
    content = path.read_bytes()
    with pytest.raises(KeyboardInterrupt), Mp4Writer(path, 8.0) as writer:
        writer.append(video)
        raise KeyboardInterrupt
    with pytest.raises(ValueError, match=r"clip\.mp4: frames of 32 x 48 pixels .* 31 x 48"), Mp4Writer(path, 8.0) as writer:
        writer.append(video)
        writer.append(video[:, :, 1:])
    with pytest.raises(ValueError, match="at least one frame"), Mp4Writer(path, 8.0):
        pass
    assert path.read_bytes() == content and len(list(tmp_path.iterdir())) == 1
