"""Conversion of a folder of animations, videos and images to MP4 and PNG files with a manifest."""

import json
from pathlib import Path

import pytest
from PIL import Image

from datamodules.clips.manifest import read_manifest
from datamodules.decoding.reader import probe, read_clip
from modules.geometry import Clip
from scripts.cli import run
from scripts.make_manifest import make_manifest


def animation(path: Path, colours: list[tuple[int, int, int, int]], milliseconds: int = 125) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = [Image.new("RGBA", (32, 24), colour) for colour in colours]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=milliseconds, loop=0, lossless=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    reds = [(255, 0, 0, 255), (0, 0, 255, 255), (0, 255, 0, 0)]
    animation(tmp_path / "in/animals/cat_face.webp", reds)
    animation(tmp_path / "in/one-dog.gif", [(255, 0, 0, 255), (0, 0, 255, 255)])
    Image.new("RGBA", (20, 20), (0, 0, 0, 0)).save(tmp_path / "in/nothing.png")
    (tmp_path / "in/broken.webp").write_bytes(b"RIFF....WEBP")
    return tmp_path / "in"


def lines(manifest: Path) -> dict[str, dict]:
    return {line["source"]: line for line in map(json.loads, manifest.read_text().splitlines())}


def test_animations_become_videos_and_still_images_stay_images(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out/manifest.jsonl"
    run(make_manifest, [str(folder), "--out", str(out), "--workers", "1", "--background", "#ffffff"])
    converted = lines(out)
    assert {source: line["caption"] for source, line in converted.items()} == {
        "animals/cat_face.webp": "cat face",
        "one-dog.gif": "one dog",
        "nothing.png": "nothing",
    }
    assert {row.caption for row in read_manifest(out)} == {"cat face", "one dog", "nothing"}
    video = read_clip(out.parent / converted["animals/cat_face.webp"]["path"], Clip(3, 24, 32, 8.0))
    # Three colours at eight frames per second; what was transparent is white.
    centre = video[:, :, 12, 16].T.int()
    expected = [(255, 0, 0), (0, 0, 255), (255, 255, 255)]
    assert all((found - found.new_tensor(colour)).abs().max() < 30 for found, colour in zip(centre, expected, strict=True))
    assert Image.open(out.parent / converted["nothing.png"]["path"]).convert("RGB").getpixel((5, 5)) == (255, 255, 255)


def test_the_same_command_goes_on_and_another_recipe_is_refused(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out/manifest.jsonl"
    run(make_manifest, [str(folder), "--out", str(out), "--workers", "1"])
    before = out.read_bytes()
    animation(folder / "new.webp", [(1, 2, 3, 255), (4, 5, 6, 255)])
    out.write_bytes(before + b'{"path": "cut')  # a line that was interrupted
    run(make_manifest, [str(folder), "--out", str(out), "--workers", "1"])
    assert out.read_bytes().startswith(before) and set(lines(out)) == {"animals/cat_face.webp", "one-dog.gif", "nothing.png", "new.webp"}
    with pytest.raises(SystemExit, match="was made with"):
        run(make_manifest, [str(folder), "--out", str(out), "--fps", "4", "--workers", "1"])


def test_sides_are_as_asked_for(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out/manifest.jsonl"
    run(make_manifest, [str(folder), "--out", str(out), "--short_side", "48", "--workers", "1"])
    assert (lines(out)["one-dog.gif"]["height"], lines(out)["one-dog.gif"]["width"]) == (48, 64)
    assert probe(out.parent / lines(out)["one-dog.gif"]["path"])


@pytest.mark.parametrize("options", [["--fps", "0"], ["--short_side", "1"], ["--background", "no colour"]])
def test_impossible_recipes_are_refused(folder: Path, tmp_path: Path, options: list[str]) -> None:
    with pytest.raises(SystemExit, match="error: "):
        run(make_manifest, [str(folder), "--out", str(tmp_path / "manifest.jsonl"), *options])
