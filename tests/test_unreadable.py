"""Unreadable files: training continues, each is reported once, and replacements do not depend on earlier failures."""

import json
import logging
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from counted_clips import Recorder, record
from hostile_files import BROKEN, CODECS, GOOD, hostile_files, write_video

from datamodules import VideoFolder
from datamodules.clips.cropping import FreshViews
from datamodules.clips.dataset import FolderClips
from datamodules.clips.manifest import ClipRecord
from datamodules.clips.unreadable import MIN_ATTEMPTS, BrokenFileReport, ReadAttempts, UnreadablePolicy, replacements
from datamodules.decoding.frames import UnreadableVideo
from datamodules.decoding.reader import probe, read_clip
from modules.geometry import Clip

CLIP = Clip(1, 16, 16)


class Watcher(Recorder):
    """Writes down what is in the clips too."""

    def __init__(self) -> None:
        super().__init__()
        self.sums: list[list[float]] = []

    def training_step(self, batch):
        self.sums.append(batch["video"].double().sum((1, 2, 3, 4)).tolist())
        return super().training_step(batch)


def write_manifest(folder: Path, names: list[str], **values: Any) -> str:
    path = folder / "clips.jsonl"
    path.write_text("".join(f"{json.dumps({'path': name, **values})}\n" for name in names))
    return str(path)


def reported(folder: Path) -> list[dict[str, str]]:
    path = folder / "broken_files.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def row(number: int, path: Path = Path("nothing.mp4")) -> ClipRecord:
    return ClipRecord(path, str(path), f"clips.jsonl:{number}", caption="", label=None, start=0.0, end=1.0, values={})


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("hostile") / "files"
    return folder, hostile_files(folder)


@pytest.mark.parametrize(("frames", "opened_before"), [(1, True), (1, False), (5, True)])
def test_training_goes_on(corpus: tuple[Path, dict[str, str]], tmp_path: Path, caplog, frames: int, opened_before: bool) -> None:
    folder, fates = corpus
    assert len(fates) >= 300
    # Files with an "end" are not opened before they are due.
    manifest = write_manifest(folder, list(fates), **({} if opened_before else {"end": 0.04}))

    def run(root: Path, workers: int, visits: int = 1) -> Watcher:
        data = VideoFolder(
            Clip(frames, 16, 16, 25.0), manifest=manifest, held_out_fraction=0, broken_limit=1.0, batch_size=5, workers=workers
        )
        return record(data, root, 1 + visits * len(fates) // 5, model=Watcher())

    with caplog.at_level(logging.WARNING):
        watcher = run(tmp_path / "alone", workers=0, visits=2)
    assert len(watcher.seen) == 1 + 2 * len(fates) // 5
    found = {line["path"]: line for line in reported(tmp_path / "alone")}
    assert len(found) == len(reported(tmp_path / "alone")) == sum("left out" in text for text in caplog.messages)
    for name, fate in fates.items():
        image = Path(name).suffix in (".png", ".jpg", ".webp", ".bmp", ".tif")
        if fate == BROKEN and not (image and frames > 1):
            assert str(folder / name) in found[name]["reason"] and found[name]["row"].startswith(f"{manifest}:")
            assert len(found[name]["reason"]) > len(str(folder / name)) + 5
            assert caplog.text.count(f"/{name}: ".replace("\n", "\\n")) == 1 or "\n" in name
        if fate == GOOD:
            assert name not in found, found[name]
    # Replacements are the same for any number of workers, and after other failures.
    again = run(tmp_path / "workers", workers=2)
    assert again.seen == watcher.seen[: len(again.seen)] and again.sums == watcher.sums[: len(again.seen)]
    assert {line["path"] for line in reported(tmp_path / "workers")} <= found.keys()


def test_a_run_that_goes_on_reports_nothing_twice(corpus: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    folder, fates = corpus
    names = [name for name in fates if name.startswith(("whole", "empty", "cut5"))]
    manifest = write_manifest(folder, names, end=0.04)

    def run(steps: int, **options: Any) -> list[list[int]]:
        data = VideoFolder(CLIP, manifest=manifest, held_out_fraction=0, broken_limit=1.0, batch_size=4)
        return record(data, options.pop("root", tmp_path), steps, **options).seen

    whole = run(20, root=tmp_path / "whole")
    assert run(7) + run(20, ckpt_path=tmp_path / "7.ckpt") == whole
    places = Counter(line["row"] for line in reported(tmp_path))
    assert set(places.values()) == {1} and len(places) == len(reported(tmp_path / "whole")) > 10


def test_what_stands_in_does_not_depend_on_what_was_found_before(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "0.mkv", frames=50).read_bytes()
    for number in range(1, 6):
        # Where the last frames are gone it depends on the view whether a clip can be read.
        (tmp_path / f"{number}.mkv").write_bytes(whole[: len(whole) * 4 // 5] if number < 3 else whole)
    manifest = write_manifest(tmp_path, [f"{number}.mkv" for number in range(6)], end=2.0)

    def clips() -> FolderClips:
        return VideoFolder(CLIP, manifest=manifest, held_out_fraction=0, broken_limit=1.0, views=FreshViews()).dataset("train")

    def look(item: dict) -> tuple[int, float]:
        return item["index"], item["video"].double().sum().item()

    visits = [(index, visit) for visit in range(12) for index in range(6)]
    one, other = clips(), clips()
    forward = {place: look(one.at_visit(*place)) for place in visits}
    backward = {place: look(other.at_visit(*place)) for place in reversed(visits)}
    assert forward == backward
    served = Counter(forward[place][0] == place[0] for place in visits if place[0] in (1, 2))
    assert served[True] > 3 and served[False] > 3


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("values", [{}, {"end": 0.5}])
def test_too_many_end_the_run_in_one_line(tmp_path: Path, workers: int, values: dict) -> None:
    whole = write_video(tmp_path / "0.mp4").read_bytes()
    for number in range(10):
        (tmp_path / f"{number}.mp4").write_bytes(whole if number < 8 else whole[: len(whole) // 2])
    manifest = write_manifest(tmp_path, [f"{number}.mp4" for number in range(10)], **values)

    def data(limit: float) -> VideoFolder:
        return VideoFolder(CLIP, manifest=manifest, held_out_fraction=0, broken_limit=limit, batch_size=2, workers=workers)

    assert len(record(data(0.2), tmp_path / "within", 5).seen) == 5
    with pytest.raises(ValueError, match="2 of 10 clips are unreadable, more than the broken_limit of 0.19; ") as caught:
        record(data(0.19), tmp_path / "beyond", 5)
    assert "\n" not in str(caught.value) and ".mp4: Invalid data" in str(caught.value)
    assert len(reported(tmp_path / "beyond")) == 2


def test_a_large_set_stops_long_before_its_limit_is_reached() -> None:
    def read(limit: float) -> int:
        records = [row(number) for number in range(20 * MIN_ATTEMPTS)]
        reads = ReadAttempts(records, UnreadablePolicy(limit))
        for number in range(3 * MIN_ATTEMPTS):
            if number % 4 == 0:
                reads.failed(records[number], UnreadableVideo(f"{number}: nothing in it"))
            else:
                reads.succeeded()
        return reads.broken

    assert read(0.2) == 3 * MIN_ATTEMPTS // 4
    with pytest.raises(
        ValueError, match=r"51 of the first 201 clips cannot be read, more than twice the broken_limit of 0\.05; clips\.jsonl:200"
    ):
        read(0.05)


def test_processes_count_their_broken_files_together(tmp_path: Path) -> None:
    records = [row(number) for number in range(10)]
    one, other = (ReadAttempts(records, UnreadablePolicy(0.2, report=tmp_path / "broken.jsonl")) for _ in range(2))
    error = UnreadableVideo("nothing.mp4: there is no such file")
    one.failed(records[0], error)
    other.failed(records[1], error)
    other.failed(records[0], error)
    with pytest.raises(ValueError, match=r"3 of 10 clips are unreadable, more than the broken_limit of 0\.2; clips\.jsonl:2"):
        one.failed(records[2], error)


def test_a_time_limit_ends_the_decoding_of_a_file(tmp_path: Path) -> None:
    path = write_video(tmp_path / "slow.mp4")
    for read in (partial(read_clip, clip=CLIP), probe):
        assert read(path, time_limit=30.0) is not None
    with pytest.raises(UnreadableVideo, match="slow.mp4: reading it takes longer than the time limit"):
        read_clip(path, CLIP, time_limit=0.0)


def test_all_other_rows_may_stand_in() -> None:
    for total in (1, 2, 3, 12, 97):
        for index in range(total):
            for visit in (0, 1):
                assert sorted(replacements(index, visit, total)) == [other for other in range(total) if other != index]


def test_no_row_stands_in_for_a_whole_stretch() -> None:
    stretch = range(100, 200)
    firsts = Counter(next(other for other in replacements(index, 0, 1000) if other not in stretch) for index in stretch)
    assert max(firsts.values()) <= 4
    assert list(replacements(5, 0, 1000)) == list(replacements(5, 0, 1000)) != list(replacements(5, 1, 1000))


def add_many(path: Path, offset: int) -> int:
    """Number of new entries out of 100, of which other processes may have added some."""
    report = BrokenFileReport(path)
    return sum(report.add(row((offset + number) % 100), UnreadableVideo("damaged")) for number in range(100))


@pytest.mark.slow
def test_processes_add_to_one_report(tmp_path: Path) -> None:
    path = tmp_path / "run" / "broken.jsonl"
    with ProcessPoolExecutor(2) as pool:
        assert sum(pool.map(partial(add_many, path), (0, 50))) == 100
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert sorted(line["row"] for line in lines) == sorted(f"clips.jsonl:{number}" for number in range(100))


def memory() -> int:
    """Pages of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1])


@pytest.mark.slow
def test_memory_does_not_grow(corpus: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    folder, fates = corpus
    large = [write_video(tmp_path / f"large.{suffix}", CODECS[suffix], frames=4, size=(240, 320)) for suffix in ("mp4", "webm")]
    paths = large * 40 + [folder / name for name in fates if name.startswith(("whole", "cut", "flipped"))]

    def decode(times: int) -> int:
        for number in range(times):
            with suppress(UnreadableVideo):
                read_clip(paths[number % len(paths)], Clip(1, 64, 64))
        return memory()

    before = decode(500)
    assert decode(2000) <= 1.05 * before


def test_no_hostile_file_takes_long(corpus: tuple[Path, dict[str, str]]) -> None:
    """Nor crashes the process: decoding is not isolated."""
    folder, fates = corpus
    for name in fates:
        started = time.monotonic()
        for read in (partial(read_clip, clip=Clip(5, 16, 16, 25.0), start_seconds=0.3), probe):
            with suppress(UnreadableVideo):
                read(folder / name)
        assert time.monotonic() - started < 20, name
