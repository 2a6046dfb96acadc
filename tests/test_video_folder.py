"""Laws of own data: what a manifest says is what is served, and whatever is wrong with it is named with file and line."""

import json
import logging
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import VideoFolder
from datamodules.base import collate
from datamodules.clips.cropping import FixedViews, FreshViews
from datamodules.clips.dataset import FolderClips
from datamodules.clips.manifest import ClipRecord, read_manifest
from datamodules.clips.unreadable import UnreadablePolicy, replacements
from datamodules.clips.video_folder import hold_out
from modules.geometry import Clip

CODEC = "libx264" if "libx264" in av.codecs_available else "mpeg4"
CLIP = Clip(5, 16, 16, 10.0)


def write_video(path: Path, frames: int = 20, level: int = 0) -> Path:
    """Frames at 10 per second, each 5 brighter than the one before, on a ramp from left to right."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(CODEC, rate=10)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        for number in range(frames):
            picture = np.full((32, 48, 3), level + 5 * number, np.uint8) + np.arange(48, dtype=np.uint8)[:, None]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_manifest(folder: Path, rows: list[dict | str], name: str = "clips.jsonl") -> str:
    path = folder / name
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for number in range(6):
        write_video(folder / f"{number}.mp4", level=10 * number)
    write_video(folder / "short.mp4", frames=4)
    (folder / "broken.mp4").write_text("no video")
    whole = (folder / "0.mp4").read_bytes()
    # The index of frames at the end is whole, the frames are not: only decoding finds out.
    (folder / "damaged.mp4").write_bytes(whole[:48] + bytes(len(whole) // 3) + whole[48 + len(whole) // 3 :])
    Image.fromarray(np.full((20, 30, 3), 99, np.uint8)).save(folder / "picture.png")
    return folder


def rows_of(*names: str, **values: object) -> list[dict]:
    return [{"path": f"{name}.mp4", "caption": f"clip {name}", **values} for name in names]


def test_items_keep_the_contract(folder):
    rows = [
        {"path": "0.mp4", "caption": "nothing", "label": "zebra"},
        {"path": str(folder / "1.mp4"), "label": "ant", "further": [1]},
        {"path": "2.mp4"},
    ]
    data = VideoFolder(CLIP, manifest=write_manifest(folder, rows), held_out_fraction=0, batch_size=3)
    data.setup("fit")
    assert data.class_names == ["ant", "zebra"] and data.captions == ["nothing"]
    dataset = data.dataset("train")
    batch = collate([dataset[index] for index in range(3)])
    assert batch["video"].shape == (3, 3, 5, 16, 16) and batch["video"].dtype == torch.uint8
    assert batch["label"].tolist() == [1, 0, -1] and batch["caption"] == ["nothing", "", ""] and batch["index"].tolist() == [0, 1, 2]
    assert len(next(iter(data.train_dataloader()))["caption"]) == 3
    assert len(data.dataset("val")) == 0 and list(data.val_dataloader()) == []
    with pytest.raises(IndexError):
        dataset[3]


def test_numbers_as_labels_sort_as_numbers(folder):
    rows = [{"path": f"{number}.mp4", "label": label} for number, label in enumerate((10, 9, 2))]
    data = VideoFolder(CLIP, manifest=write_manifest(folder, rows), held_out_fraction=0)
    assert data.class_names == ["2", "9", "10"]
    assert [data.dataset("train")[index]["label"] for index in range(3)] == [2, 1, 0]


def test_held_out_clips_are_cut_from_the_middle(folder):
    manifest = write_manifest(folder, rows_of("0", "1"))
    data = VideoFolder(CLIP, manifest=manifest, val_manifest=manifest)
    item = data.dataset("val")[0]
    # 2 s of video, 0.5 s of clip: it starts at 0.75 s. 32 of 48 columns are shown, from the eighth on.
    brightness = item["video"].float().mean((0, 2, 3))
    expected = torch.tensor([5.0 * frame + 23.5 for frame in (7, 8, 9, 10, 11)])
    assert (brightness - expected).abs().max() < 6
    assert torch.equal(data.dataset("test")[0]["video"], item["video"])


def test_results_are_compared_with_the_middle_of_training_files_too(folder):
    settings = {"manifest": write_manifest(folder, rows_of("0", "1", "2", "3")), "held_out_fraction": 0.3}
    data, other = VideoFolder(CLIP, views=FreshViews(True), seed=1, **settings), VideoFolder(CLIP, **settings)
    clips, again = data.reference("train"), other.reference("train")
    assert clips.records == data.dataset("train").records and data.reference("test") is data.dataset("test")
    for index, row in enumerate(clips.records):
        middle = FolderClips([row], CLIP, {})[0]["video"]
        assert torch.equal(clips[index]["video"], middle) and torch.equal(again[index]["video"], middle)
    assert any(not torch.equal(data.dataset("train")[index]["video"], clips[index]["video"]) for index in range(len(clips)))


def test_training_views_are_random_and_repeatable(folder):
    manifest = write_manifest(folder, rows_of(*["0"] * 8))
    one, same, other = (VideoFolder(CLIP, manifest=manifest, held_out_fraction=0, seed=seed).dataset("train") for seed in (1, 1, 2))
    videos = [one[index]["video"] for index in range(8)]
    assert all(torch.equal(video, same[index]["video"]) for index, video in enumerate(videos))
    assert not any(torch.equal(video, other[index]["video"]) for index, video in enumerate(videos))
    assert len({video.float().mean().item() for video in videos}) == 8


def row_of(label: str) -> ClipRecord:
    return ClipRecord(Path("a.mp4"), "a.mp4", "", "", label, 0.0, None, {})


@pytest.mark.parametrize("kind", [FixedViews, FreshViews])
def test_views_are_random_and_cover_their_range(kind):
    views = [kind(flip=True).crop(0, row_of("a"), index, 3) for index in range(400)]
    for values in zip(*((view.start_fraction, view.framing.down, view.framing.across) for view in views), strict=True):
        assert min(values) < 0.02 and max(values) > 0.98 and abs(np.mean(values) - 0.5) < 0.06
    assert 150 < sum(view.framing.mirrored for view in views) < 250


def test_only_clips_of_labels_that_allow_it_are_mirrored(folder):
    def mirrored(flip, label):
        return any(FixedViews(flip).crop(0, row_of(label), index, 0).framing.mirrored for index in range(50))

    assert not mirrored(False, "left") and not mirrored(["up", "down"], "left")
    assert mirrored(True, "left") and mirrored(["up", "down"], "down")
    manifest = write_manifest(folder, rows_of("0", "1", label="up"))
    with pytest.raises(ValueError, match="views.flip names 'upp', but there is no such label"):
        VideoFolder(CLIP, manifest=manifest, views=FixedViews(["upp"])).setup("fit")


def test_fresh_views_differ_from_visit_to_visit_and_repeat_after_a_resume(folder):
    manifest = write_manifest(folder, rows_of("0", "1", "2"))
    fixed, fresh, same = (
        VideoFolder(CLIP, manifest=manifest, held_out_fraction=0, views=kind()) for kind in (FixedViews, FreshViews, FreshViews)
    )
    assert not fixed.changing and fresh.changing
    for index in range(3):
        visits = [fresh.dataset("train").at_visit(index, visit)["video"] for visit in range(4)]
        assert len({video.numpy().tobytes() for video in visits}) == 4
        assert all(torch.equal(video, same.dataset("train").at_visit(index, visit)["video"]) for visit, video in enumerate(visits))
        still = fixed.dataset("train")
        assert torch.equal(still.at_visit(index, 0)["video"], still.at_visit(index, 3)["video"])


def test_start_and_end_bound_the_clip(folder):
    rows = [{"path": "0.mp4", "start": 0.6, "end": 1.2}] * 20
    dataset = VideoFolder(CLIP, manifest=write_manifest(folder, rows), held_out_fraction=0).dataset("train")
    for index in range(20):
        brightness = dataset[index]["video"].float().mean((0, 2, 3))
        # The shown columns add between 15.5 and 31.5.
        assert brightness[0] > 5 * 6 + 15.5 - 4 and brightness[-1] < 5 * 11 + 31.5 + 4


def test_short_clips_and_pictures_are_left_out_and_counted(folder, caplog):
    rows = [*rows_of("0", "short", "1"), {"path": "picture.png"}, {"path": "2.mp4", "start": 1.7}, {"path": "2.mp4", "end": 0.3}]
    with caplog.at_level(logging.INFO):
        dataset = VideoFolder(CLIP, manifest=write_manifest(folder, rows), held_out_fraction=0).dataset("train")
    assert [row.listed_path for row in dataset.records] == ["0.mp4", "1.mp4"]
    assert "1 images, 3 too short (5 frames at 10 fps need more than 0.4 s)" in caplog.text


def test_no_clip_long_enough(folder):
    data = VideoFolder(Clip(50, 16, 16, 10.0), manifest=write_manifest(folder, rows_of("0", "1")))
    with pytest.raises(ValueError, match=r"clips\.jsonl:1.*50 frames at 10 fps need more than 4\.9 s"):
        data.setup("fit")


def test_pictures_and_videos_are_clips_of_one_frame(folder):
    rows = [{"path": "picture.png"}, *rows_of("0", "short")]
    dataset = VideoFolder(Clip(1, 16, 16), manifest=write_manifest(folder, rows), held_out_fraction=0).dataset("train")
    assert [dataset[index]["video"].shape for index in range(3)] == [(3, 1, 16, 16)] * 3
    assert (dataset[0]["video"] == 99).all()


def test_where_compares_values_and_kinds(folder):
    rows = [*rows_of("0", kind="clip", good=True), *rows_of("1", kind="clip", good=1), *rows_of("2", kind="draft", good=True)]
    manifest = write_manifest(folder, [*rows, *rows_of("3")])
    for where, names in (({"kind": "clip"}, "01"), ({"good": True}, "02"), ({"kind": "clip", "good": True}, "0"), ({}, "0123")):
        data = VideoFolder(CLIP, manifest=manifest, held_out_fraction=0, where=where)
        assert "".join(row.listed_path[0] for row in data.dataset("train").records) == names
        assert data.captions == [f"clip {name}" for name in names]
    with pytest.raises(ValueError, match="none of the 4 clips .* has {'kind': 'film'}"):
        VideoFolder(CLIP, manifest=manifest, where={"kind": "film"}).setup("fit")


def test_class_ids_do_not_depend_on_what_is_left_out(folder):
    manifest = write_manifest(folder, [{"path": "picture.png", "label": "a"}, {"path": "0.mp4", "label": "b", "kind": "clip"}])
    data = VideoFolder(CLIP, manifest=manifest, where={"kind": "clip"}, held_out_fraction=0)
    assert data.dataset("train")[0]["label"] == 1


def test_unknown_label_in_the_held_out_manifest(folder):
    train = write_manifest(folder, rows_of("0", label="a"))
    val = write_manifest(folder, rows_of("1", label="b"), "val.jsonl")
    with pytest.raises(ValueError, match=r"val\.jsonl:1: the training manifest has no label 'b'"):
        VideoFolder(CLIP, manifest=train, val_manifest=val).setup("validate")


def test_hold_out_is_stable(folder):
    rows = read_manifest(write_manifest(folder, rows_of(*map(str, range(400)))))
    train, held = hold_out(rows, 0.1)
    assert 20 < len(held) < 60 and len(train) + len(held) == 400
    fewer = [row for number, row in enumerate(rows) if number % 3]
    assert set(row.listed_path for row in hold_out(fewer, 0.1)[1]) == {row.listed_path for row in held} & {row.listed_path for row in fewer}
    assert len(hold_out(rows[:2], 0.01)[1]) == 1
    twice = hold_out(rows[:5] * 2, 0.01)[1]
    assert len(twice) == 2 and twice[0] == twice[1]
    with pytest.raises(ValueError, match="leaves none to train on; give a val_manifest"):
        hold_out(rows[:1], 0.05)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not valid JSON"),
        ("[1]", "expected an object"),
        ('{"caption": "a"}', '"path" is missing'),
        ('{"path": 3}', '"path" must be a path, got 3'),
        ('{"path": "0.mp4", "caption": ["a"]}', r'"caption" must be a text, got \["a"\]'),
        ('{"path": "0.mp4", "label": 1.5}', '"label" must be a class name or a whole number'),
        ('{"path": "0.mp4", "label": true}', '"label" must be a class name or a whole number'),
        ('{"path": "0.mp4", "start": "1"}', '"start" must be a number of seconds, got "1"'),
        ('{"path": "0.mp4", "start": 2, "end": 1}', "0 <= start < end, got 2 and 1"),
        ('{"path": "0.mp4", "start": NaN}', "0 <= start < end"),
        ('{"path": "gone.mp4"}', "there is no file .*gone.mp4"),
        ('{"path": "1.mp4", "label": 7}', "labels are either names or numbers"),
    ],
)
def test_wrong_lines_are_named(folder, line, message):
    manifest = write_manifest(folder, [*rows_of("0", label="a"), "", line])
    with pytest.raises(ValueError, match=rf"clips\.jsonl:3\b.*{message}|{message}.*clips\.jsonl:3\b"):
        VideoFolder(CLIP, manifest=manifest).setup("fit")


def test_typos_are_warned_of_once_each(folder, recwarn):
    rows = [{"path": "0.mp4", "kind": "clip"}, *[{"path": "1.mp4", "captoin": "a", " Label": "b", "heigth": 3, "note": ""}] * 3]
    read_manifest(write_manifest(folder, rows))
    said = sorted(str(warning.message).split("clips.jsonl", 1)[-1] for warning in recwarn)
    wanted = (("captoin", "caption"), (" Label", "label"), ("heigth", "height"))
    assert said == sorted(f':2: "{key}" is not a known key; did you mean "{meant}"?' for key, meant in wanted)


def test_missing_and_empty_manifests(folder):
    with pytest.raises(ValueError, match="there is no file .*gone.jsonl"):
        VideoFolder(CLIP, manifest=str(folder / "gone.jsonl")).setup("fit")
    with pytest.raises(ValueError, match=r"empty\.jsonl has no lines"):
        VideoFolder(CLIP, manifest=write_manifest(folder, [], "empty.jsonl")).setup("fit")
    with pytest.raises(ValueError, match=r"0\.mp4 is not UTF-8 text"):
        VideoFolder(CLIP, manifest=str(folder / "0.mp4")).setup("fit")
    with pytest.raises(ValueError, match="held_out_fraction must be at least 0 and below 1, got 1.5"):
        VideoFolder(CLIP, manifest="", held_out_fraction=1.5)
    with pytest.raises(ValueError, match="broken_limit must be within 0..1, got -1"):
        VideoFolder(CLIP, manifest="", broken_limit=-1)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_file_gives_way_to_the_same_row_every_time(folder, caplog, workers):
    rows = rows_of("0", "damaged", "1", label="a")
    data = VideoFolder(CLIP, manifest=write_manifest(folder, rows), held_out_fraction=0, broken_limit=0.4, batch_size=3, workers=workers)
    with caplog.at_level(logging.WARNING):
        batches = [batch for _ in range(3) for batch in data.train_dataloader()]
    for batch in batches:
        assert sorted(batch["index"].tolist()) == sorted([0, 2, next(replacements(1, 0, 3))])
        assert all(caption == ["clip 0", "", "clip 1"][index] for index, caption in zip(batch["index"], batch["caption"], strict=True))
    # Workers log to their own standard error, and count for themselves without a report.
    assert workers or caplog.text.count("damaged.mp4: ") == 1
    assert workers or data.dataset("train").reads.broken == 1


def test_too_many_damaged_files(folder):
    damaged = VideoFolder(CLIP, manifest=write_manifest(folder, rows_of("0", "damaged", "1")), held_out_fraction=0)
    with pytest.raises(ValueError, match=r"1 of 3 clips are unreadable, more than the broken_limit of 0\.1; .*clips\.jsonl:2"):
        damaged.dataset("train")[1]
    broken = VideoFolder(CLIP, manifest=write_manifest(folder, rows_of("0", "broken", "1")), held_out_fraction=0)
    with pytest.raises(ValueError, match="1 of 3 clips are unreadable"):
        broken.setup("fit")
    hopeless = VideoFolder(CLIP, manifest=write_manifest(folder, rows_of("damaged")), held_out_fraction=0, broken_limit=1.0)
    with pytest.raises(ValueError, match="none of the 1 clips can be read"):
        hopeless.dataset("train")[0]


def test_what_stands_in_for_a_row_comes_whole_with_its_own_index(folder):
    rows = read_manifest(write_manifest(folder, [{**row, "end": 2.0} for row in rows_of("0", "1", "damaged")]))
    dataset = FolderClips(rows, CLIP, {}, policy=UnreadablePolicy(0.5))
    other = next(replacements(2, 0, 3))
    assert torch.equal(dataset[2]["video"], dataset[other]["video"]) and dataset[2]["index"] == other
