"""Laws of aspect-ratio buckets: every file in its nearest size, batches of one size, nothing lost and what is cut off is said."""

import json
import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from counted_clips import as_process, record
from PIL import Image
from test_reader import turn_clockwise, write_video

from datamodules import FreshViews, VideoBuckets
from datamodules.base import StageOverride
from datamodules.clips.aspect_ratios import cropped_fraction, nearest_size, published_sizes
from datamodules.decoding.reader import display_size
from modules.geometry import Clip, Pyramid

SIZES = [(16, 16), (12, 20), (20, 12)]
CLIP = Clip(1, 16, 16)

# How many pictures of which height and width; the nearest size of each kind.
KINDS = {(40, 40): (8, (16, 16)), (36, 40): (2, (16, 16)), (30, 50): (7, (12, 20)), (50, 30): (4, (20, 12)), (80, 20): (1, (20, 12))}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder, rows = tmp_path_factory.mktemp("pictures"), []
    for (height, width), (count, _) in KINDS.items():
        for number in range(count):
            name = f"{height}x{width}_{number}.png"
            Image.fromarray(np.full((height, width, 3), 10 * number, np.uint8)).save(folder / name)
            rows.append({"path": name, "label": f"{height}x{width}"})
    path = folder / "pictures.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(path)


def buckets(manifest: str, **settings: object) -> VideoBuckets:
    return VideoBuckets(CLIP, manifest=manifest, **{"sizes": SIZES, "held_out_fraction": 0, "batch_size": 2, **settings})


def batches(data: VideoBuckets, passes: int = 1) -> list[tuple]:
    """Size, labels and numbers of every batch."""
    loader = data.train_dataloader()
    return [
        (tuple(batch["video"].shape[3:]), [data.class_names[label] for label in batch["label"]], batch["index"].tolist())
        for _ in range(passes)
        for batch in loader
    ]


def test_every_file_goes_to_its_nearest_size_and_a_batch_has_one(manifest: str) -> None:
    seen, wanted = batches(buckets(manifest), 20), {f"{h}x{w}": size for (h, w), (_, size) in KINDS.items()}
    assert {size for size, _, _ in seen} == set(SIZES)
    assert all(wanted[label] == size for size, labels, _ in seen for label in labels)


def test_all_clips_come_equally_often(manifest: str) -> None:
    """To within the rounding of the turns: a size has its share of the batches, and within it every clip its turn."""
    counts = Counter(number for _, _, numbers in batches(buckets(manifest), 40) for number in numbers)
    assert len(counts) == 22 and max(counts.values()) - min(counts.values()) <= 3, counts


def test_shares_and_losses_are_said_once(manifest: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        data = buckets(manifest)
        data.setup("fit")
        data.train_dataloader()
    said = [record.getMessage() for record in caplog.records if "cropped" in record.getMessage()]
    assert len(said) == 1
    first, *rows = said[0].splitlines()
    # 2 lose a tenth, 1 loses 1 - (20 / 80) / (12 / 20); in a square, 11 lose 0.4 and the last one 0.75.
    assert first == "22 clips by size: 3.6% of their area is cropped; with 16 x 16 alone: 24.3%"
    assert rows[0].split() == ["16", "x", "16", "10", "clips", "45.5%,", "cropped", "2.0%"]
    assert rows[2].split()[3:] == ["5", "clips", "22.7%,", "cropped", "11.7%"]


def test_a_size_that_fills_no_batch_is_given_up(manifest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {size for size, _, _ in batches(buckets(manifest, batch_size=6), 20)}
    assert sizes == {(16, 16), (12, 20)}
    as_process(monkeypatch, 0, 2)
    data = buckets(manifest, batch_size=6)
    assert {size for size, _, _ in batches(data, 20)} == {(16, 16)} and len(data.sources()) == 1
    with pytest.raises(ValueError, match=r"22 training clips \(16 x 16\) do not fill one batch of 24"):
        buckets(manifest, batch_size=12).train_dataloader()


def test_the_order_is_that_of_any_number_of_workers_and_processes(manifest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = batches(buckets(manifest, batch_size=4), 3)
    assert alone == batches(buckets(manifest, batch_size=4, workers=2), 3)
    shares = []
    for rank in (0, 1):
        as_process(monkeypatch, rank, 2)
        shares.append(batches(buckets(manifest), 3))
    assert [(one[0], one[1] + other[1], one[2] + other[2]) for one, other in zip(*shares, strict=True)] == alone


def test_a_resumed_run_sees_what_the_uninterrupted_run_sees(manifest: str, tmp_path: Path) -> None:
    def data(workers: int = 0) -> VideoBuckets:
        return buckets(manifest, workers=workers, views=FreshViews(), milestones={3: StageOverride(batch_size=3)})

    whole = record(data(), tmp_path, 15)
    for stop, workers in ((2, 0), (3, 2), (11, 0)):
        before = record(data(workers), tmp_path, stop)
        assert before.seen + record(data(), tmp_path, 15, tmp_path / f"{stop}.ckpt").seen == whole.seen


def test_held_out_clips_have_the_size_of_the_clip(manifest: str) -> None:
    data = VideoBuckets(CLIP, manifest=manifest, sizes=SIZES, held_out_fraction=0.3, batch_size=2)
    assert {tuple(batch["video"].shape[2:]) for batch in data.val_dataloader()} == {(1, 16, 16)}
    assert {(clip.height, clip.width) for clip in data.train_clips} == set(SIZES)


def test_a_manifest_may_say_what_its_files_measure(manifest: str, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in Path(manifest).read_text().splitlines()]
    other = tmp_path / "sizes.jsonl"

    def write(**said: object) -> VideoBuckets:
        lines = ({**row, "path": str(Path(manifest).parent / row["path"]), **said} for row in rows)
        other.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        return buckets(str(other))

    assert {size for size, _, _ in batches(write(height=500, width=300), 3)} == {(20, 12)}
    for said, message in (
        ({"height": "9", "width": 9}, '"height" must be a whole number of pixels, got "9"'),
        ({"height": 0, "width": 9}, "at least 1"),
    ):
        with pytest.raises(ValueError, match=f"sizes.jsonl:1: .*{message}"):
            write(**said).setup("fit")


def test_what_a_file_shows_is_measured_upright(tmp_path: Path) -> None:
    turned = write_video(tmp_path / "phone.mp4", [100] * 2)
    turn_clockwise(turned)
    assert display_size(write_video(tmp_path / "a.mp4", [100] * 2)) == (48, 64) and display_size(turned) == (64, 48)
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.new("RGB", (30, 20)).save(tmp_path / "phone.jpg", exif=exif)
    assert display_size(tmp_path / "phone.jpg") == (30, 20)


def test_published_sizes_are_those_of_the_clips_budget() -> None:
    for clip, budget in ((Clip(1, 256, 256), 256), (Clip(17, 384, 672), 512), (Clip(1, 1024, 1024), 1024)):
        sizes = published_sizes(clip)
        assert len(sizes) == 15 and (clip.height, clip.width) in sizes and (budget, budget) in sizes
        assert {Pyramid.of(height // 16, width // 16).scales for height, width in sizes} == {{256: 7, 512: 10, 1024: 13}[budget]}
        assert all(0.9 < height * width / budget**2 < 1.26 for height, width in sizes)
    with pytest.raises(ValueError, match="250 x 250 pixels are not a published size; set sizes"):
        published_sizes(Clip(1, 250, 250))
    with pytest.raises(ValueError, match="the clip's 16 x 16 pixels must be one of the sizes"):
        VideoBuckets(CLIP, manifest="", sizes=[(8, 8)])


@pytest.mark.parametrize("shape", [(480, 640), (1080, 1920), (1920, 1080), (100, 1000), (333, 334)])
def test_the_nearest_size_loses_least(shape: tuple[int, int]) -> None:
    sizes = tuple(published_sizes(Clip(1, 256, 256)))
    chosen = nearest_size(*shape, sizes)
    assert cropped_fraction(*shape, chosen) == min(cropped_fraction(*shape, size) for size in sizes)
    # What is lost is what a cut-out that keeps the shape leaves over.
    height, width = min(shape[0], shape[1] * chosen[0] / chosen[1]), min(shape[1], shape[0] * chosen[1] / chosen[0])
    assert cropped_fraction(*shape, chosen) == pytest.approx(1 - height * width / (shape[0] * shape[1]))
