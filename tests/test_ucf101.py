"""Laws of class folders: UCF-101 by its official lists, made here in miniature, and folders without lists."""

from pathlib import Path

import pytest
from PIL import Image
from test_video_folder import write_video

from datamodules import UCF101, VideoFolder
from datamodules.base import StageOverride
from modules.geometry import Clip

CLIP = Clip(5, 16, 16, 10.0)
CLASSES = ["ApplyEyeMakeup", "Archery", "YoYo"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes of two groups of two clips, in the layout and with the lists of the archives; split 2 exchanges the groups."""
    videos, lists = tmp_path / "UCF-101", tmp_path / "ucfTrainTestlist"
    lists.mkdir()
    names = {group: [f"{name}/v_{name}_g{group:02d}_c{clip:02d}.avi" for name in CLASSES for clip in (1, 2)] for group in (1, 8)}
    for name in (*names[1], *names[8]):
        (videos / name).parent.mkdir(parents=True, exist_ok=True)
        write_video(videos / name)
    # Lines end as they do in the archive.
    (lists / "classInd.txt").write_text("".join(f"{number} {name}\r\n" for number, name in enumerate(CLASSES, start=1)))
    for split, (train, test) in {1: (8, 1), 2: (1, 8)}.items():
        numbered = "".join(f"{name} {CLASSES.index(name.split('/')[0]) + 1}\r\n" for name in names[train])
        (lists / f"trainlist{split:02d}.txt").write_text(numbered)
        (lists / f"testlist{split:02d}.txt").write_text("".join(f"{name}\r\n" for name in names[test]))
    return tmp_path


def ucf101(folder: Path, **settings: object) -> UCF101:
    return UCF101(str(folder / "UCF-101"), str(folder / "ucfTrainTestlist"), **{"clip": CLIP, "batch_size": 2, **settings})


def test_the_official_lists_say_what_is_for_training_and_what_is_held_out(folder: Path) -> None:
    data = ucf101(folder)
    data.setup("fit")
    assert data.class_names == CLASSES and data.captions == []
    for split, group in (("train", "g08"), ("val", "g01"), ("test", "g01")):
        dataset = data.dataset(split)
        assert len(dataset) == 6 and all(group in row.listed_path for row in dataset.records)
        items = [dataset[index] for index in range(6)]
        assert [item["label"] for item in items] == [0, 0, 1, 1, 2, 2]
        assert all(item["video"].shape == (3, 5, 16, 16) for item in items)
    assert all("g01" in row.listed_path for row in ucf101(folder, split=2).dataset("train").records)
    assert next(iter(data.train_dataloader()))["video"].shape == (2, 3, 5, 16, 16)


def test_it_grows_like_other_data(folder: Path) -> None:
    loader = ucf101(folder, milestones={2: StageOverride(frames=1, height=8, batch_size=3)}).train_dataloader()
    shapes = [tuple(batch["video"].shape) for _ in range(2) for batch in loader]
    assert shapes == [(3, 3, 1, 8, 16)] * 2 + [(2, 3, 5, 16, 16)] * 4


@pytest.mark.parametrize(
    ("file", "lines", "message"),
    [
        ("classInd.txt", "1 ApplyEyeMakeup\n3 Archery\n", r'classInd\.txt:2: expected "2 <another class>", got "3 Archery"'),
        ("classInd.txt", "1 Archery\n2 Archery\n", r'classInd\.txt:2: expected "2 <another class>"'),
        ("classInd.txt", "", r"classInd\.txt names no classes"),
        ("trainlist01.txt", "\nArchery/a.avi 1\n", r'trainlist01\.txt:2: expected "<class>/<video>" .*, got "Archery/a\.avi 1"'),
        ("trainlist01.txt", "Archery/a.avi two\n", r"trainlist01\.txt:1"),
        ("trainlist01.txt", "Archery/a.avi 2 3\n", r'trainlist01\.txt:1: .* got "Archery/a\.avi 2 3"'),
        ("trainlist01.txt", "Sword/a.avi\n", r"trainlist01\.txt:1: .* got \"Sword/a\.avi\""),
        ("trainlist01.txt", "Archery/gone.avi 2\n", r"trainlist01\.txt:1: there is no file .*UCF-101/Archery/gone\.avi"),
        ("trainlist01.txt", "", r"trainlist01\.txt lists no videos"),
        ("testlist01.txt", "Archery/gone.avi\n", r"testlist01\.txt:1: there is no file"),
    ],
)
def test_wrong_lists_are_named_with_their_line(folder: Path, file: str, lines: str, message: str) -> None:
    (folder / "ucfTrainTestlist" / file).write_text(lines)
    with pytest.raises(ValueError, match=message):
        ucf101(folder).setup("fit")


def test_missing_lists_and_splits_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no file .*trainlist03\.txt"):
        ucf101(folder, split=3).setup("fit")
    with pytest.raises(ValueError, match="UCF-101 has the splits 1, 2 and 3, got 4"):
        ucf101(folder, split=4)


def test_folders_are_classes_without_any_list(folder: Path) -> None:
    root = folder / "UCF-101"
    Image.new("RGB", (8, 8)).save(root / "Archery" / "bow.JPG")
    (root / "Archery" / ".hidden.avi").write_text("not a clip")
    (root / "readme.txt").write_text("not a class")
    (root / "YoYo" / "notes.txt").write_text("not a clip")
    videos = VideoFolder(CLIP, manifest=str(root), held_out_fraction=0.3, batch_size=1)
    videos.setup("fit")
    train, held = videos.dataset("train"), videos.dataset("val")
    assert videos.class_names == CLASSES and len(train) + len(held) == 12 and len(held) >= 1
    assert all(CLASSES[train[index]["label"]] == row.path.parent.name for index, row in enumerate(train.records))
    pictures = VideoFolder(Clip(1, 16, 16), manifest=str(root), held_out_fraction=0)
    assert len(pictures.dataset("train")) == 13 and "Archery/bow.JPG" in {row.listed_path for row in pictures.dataset("train").records}


def test_a_folder_without_classes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("not in a class")
    with pytest.raises(ValueError, match=f"no folder in {tmp_path} contains videos or images"):
        VideoFolder(CLIP, manifest=str(tmp_path)).setup("fit")
