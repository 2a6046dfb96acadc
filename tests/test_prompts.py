"""Laws of prompts: every one becomes the clips it asks for, exactly once over all processes, and errors come before any sampling."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from lightning import LightningModule, Trainer
from PIL import Image

import datamodules.predict.base
from callbacks import write_mp4
from datamodules import Prompts
from datamodules.predict.prompt_files import conditions_of, slug
from modules.batch import Requests
from modules.geometry import Clip

CLIP = Clip(9, 16, 24, 8.0)


def batches_of(prompts: Prompts) -> list[Requests]:
    prompts.setup("predict")
    loader = prompts.predict_dataloader()
    batches = list(loader)
    assert len(loader) == len(batches)
    return batches


def write_prompts(folder: Path, *rows: dict | str) -> str:
    path = folder / "prompts.jsonl"
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return str(path)


@pytest.fixture
def picture(tmp_path: Path) -> str:
    Image.fromarray(np.full((40, 50, 3), 80, np.uint8)).save(tmp_path / "start.png")
    return str(tmp_path / "start.png")


def test_a_list_of_conditions():
    batches = batches_of(Prompts(["3 left", "A cat, running!", "5"], clip=CLIP, batch_size=2, seed=10))
    assert [batch["condition"] for batch in batches] == [["3 left", "A cat, running!"], ["5"]]
    assert [batch["seed"] for batch in batches] == [[10, 11], [12]]
    assert batches[0]["name"] == ["0000_3-left_seed10", "0001_a-cat-running_seed11"]
    assert {key: batches[0][key] for key in ("frames", "height", "width", "fps")} == {"frames": 9, "height": 16, "width": 24, "fps": 8.0}
    assert "prefix" not in batches[0]


def test_a_text_file_has_a_condition_per_line(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("keycap #\n\n  a cat  \n")
    assert batches_of(Prompts(str(path), clip=CLIP))[0]["condition"] == ["keycap #", "a cat"]


def test_a_table_has_named_columns_and_empty_cells(tmp_path, picture):
    path = tmp_path / "prompts.csv"
    path.write_text('\ufeffcondition, seed,prefix,frames\n"a cat, running",7\n\n  b ,,start.png,17\n"say ""hi""",,,\n')
    first, second = batches_of(Prompts(str(path), clip=CLIP))
    assert (first["condition"], first["seed"]) == (["a cat, running", 'say "hi"'], [7, 2])
    assert (second["condition"], second["frames"], second["prefix"].shape[2]) == (["b"], 17, 1)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("a cat\nb\n", r'prompts\.csv:1: the first line must name the columns, one of them "condition"; got a cat'),
        ("condition,seed\na,b,c\n", r"prompts\.csv:2: 3 cells, but the first line names 2 columns"),
        ("condition,sed\na,3\n", r"prompts\.csv:2: unknown 'sed'"),
        ("condition,seed\na,b\n", r'prompts\.csv:2: "seed" must be a whole number, got "b"'),
        ('condition,seed\n"a,3\n', r"prompts\.csv:2: not a line of a table"),
        ("condition,seed\n,3\n", r'prompts\.csv:2: "condition" is missing'),
        ("condition\n", "there are no prompts"),
    ],
)
def test_wrong_tables_are_named(tmp_path, table, message):
    (tmp_path / "prompts.csv").write_text(table)
    with pytest.raises(ValueError, match=message):
        Prompts(str(tmp_path / "prompts.csv"), clip=CLIP).setup("predict")


def test_conditions_may_change(tmp_path):
    path = write_prompts(tmp_path, {"condition": "a", "then": [[0.25, "b"], [1, "c"]]}, {"condition": "d"})
    (batch,) = batches_of(Prompts(path, clip=CLIP))
    assert batch["then"] == [[(0.25, "b"), (1.0, "c")], []]
    assert batch["asked"][0]["then"] == [[0.25, "b"], [1.0, "c"]] and "then" not in batch["asked"][1]
    assert conditions_of(path) == ["a", "b", "c", "d"]


def test_samples_have_seeds_and_names_of_their_own(tmp_path):
    path = write_prompts(tmp_path, {"condition": "a"}, {"condition": "b", "seed": 100}, {"condition": "c", "name": "mine"})
    (batch,) = batches_of(Prompts(path, clip=CLIP, samples=2, seed=5))
    assert batch["condition"] == ["a", "a", "b", "b", "c", "c"]
    assert batch["seed"] == [5, 6, 100, 101, 9, 10]
    assert batch["name"] == ["0000_a_seed5", "0001_a_seed6", "0002_b_seed100", "0003_b_seed101", "mine_0", "mine_1"]


def test_one_length_per_batch_and_order_kept_otherwise(tmp_path, picture):
    rows = [{"condition": str(number), "frames": (9, 17)[number % 2]} for number in range(6)]
    rows += [{"condition": "6", "prefix": "start.png"}, {"condition": "7", "frames": 17}]
    batches = batches_of(Prompts(write_prompts(tmp_path, *rows), clip=CLIP, batch_size=2))
    found = [(batch["frames"], batch["condition"], "prefix" in batch) for batch in batches]
    assert found == [
        (9, ["0", "2"], False),
        (9, ["4"], False),
        (17, ["1", "3"], False),
        (17, ["5", "7"], False),
        (9, ["6"], True),
    ]


def test_prefix_for_all_and_for_one(tmp_path, picture):
    Image.fromarray(np.full((16, 24, 3), 200, np.uint8)).save(tmp_path / "other.png")
    path = write_prompts(tmp_path, {"condition": "a"}, {"condition": "b", "prefix": "other.png"}, {"condition": "c", "prefix_frames": 0})
    batches = batches_of(Prompts(path, clip=CLIP, prefix=picture))
    assert batches[0]["prefix"].shape == (2, 3, 1, 16, 24) and batches[0]["prefix"].dtype == torch.uint8
    assert batches[0]["prefix"].amin((1, 2, 3, 4)).tolist() == batches[0]["prefix"].amax((1, 2, 3, 4)).tolist() == [80, 200]
    assert batches[1]["condition"] == ["c"] and "prefix" not in batches[1]


@pytest.mark.parametrize("rate", [8.0, 24.0])
def test_a_prefix_begins_where_it_is_asked_to(tmp_path, rate):
    """Grey levels rise by 8 every eighth of a second, so that levels are times."""
    frames = torch.arange(3 * int(rate)) * 8 // int(rate)
    write_mp4(tmp_path / "rising.mp4", (20 + 8 * frames).to(torch.uint8)[None, :, None, None].expand(3, -1, 16, 24), fps=rate)
    lines = [{"condition": "a", "prefix_start": start} for start in (0, 0.5, "last")]
    prompts = Prompts(write_prompts(tmp_path, *lines), clip=CLIP, prefix=str(tmp_path / "rising.mp4"), prefix_frames=5)
    levels = batches_of(prompts)[0]["prefix"].float().mean((1, 3, 4))
    assert ((levels - 20) / 8).round().int().tolist() == [[*range(5)], [*range(4, 9)], [*range(19, 24)]]


def test_the_last_frame_of_a_picture_is_the_picture(picture):
    assert batches_of(Prompts(["a"], clip=CLIP, prefix=picture, prefix_start="last"))[0]["prefix"].shape[2] == 1


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_processes_share_the_batches(monkeypatch, world):
    prompts = Prompts([str(number) for number in range(7)], clip=CLIP, batch_size=2)
    shares = []
    for rank in range(world):
        monkeypatch.setattr(datamodules.predict.base, "rank_and_world_size", lambda rank=rank: (rank, world))
        shares.append([batch["condition"] for batch in batches_of(prompts)])
    assert sorted(condition for share in shares for batch in share for condition in batch) == [str(number) for number in range(7)]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    # Lightning refuses processes without batches otherwise.
    assert prompts.allow_zero_length_dataloader_with_multiple_devices


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not valid JSON"),
        ({"seed": 1}, '"condition" is missing'),
        ({"condition": 3}, '"condition" must be a text, got 3'),
        ({"condition": "a", "sed": 1}, "unknown 'sed'; the keys of a prompt are condition, seed"),
        ({"condition": "a", "seed": -1}, '"seed" must be at least 0, got -1'),
        ({"condition": "a", "seed": 1.5}, '"seed" must be a whole number'),
        ({"condition": "a", "frames": 0}, '"frames" must be at least 1'),
        ({"condition": "a", "frames": True}, '"frames" must be a whole number, got true'),
        ({"condition": "a", "name": "x/y"}, '"name" must be a file name without folder'),
        ({"condition": "a", "name": "first"}, 'the name "first" is already taken by .*:1'),
        ({"condition": "a", "prefix": "gone.mp4"}, "gone.mp4: there is no such file"),
        ({"condition": "a", "prefix": "prompts.jsonl"}, "Invalid data"),
        ({"condition": "a", "prefix": "start.png", "prefix_frames": 2}, "an image has one frame"),
        ({"condition": "a", "prefix": "start.png", "prefix_frames": 9}, "a prefix of 9 frames leaves nothing to generate in a clip of 9"),
        (
            {"condition": "a", "prefix": "short.mp4", "prefix_frames": 5},
            r"short\.mp4: its frames end at 0\.375 s; asked for 0\.000 s to 0\.500 s",
        ),
        ({"condition": "a", "prefix_frames": 2}, '"prefix_frames" is 2, but there is no prefix'),
        ({"condition": "a", "prefix_start": 2}, '"prefix_start" is 2.0, but there is no prefix'),
        ({"condition": "a", "prefix": "short.mp4", "prefix_start": "end"}, '"prefix_start" must be a time .* or "last", got \'end\''),
        ({"condition": "a", "prefix": "short.mp4", "prefix_start": -1}, '"prefix_start" must be a time of the prefix'),
        ({"condition": "a", "prefix": "start.png", "prefix_start": 1}, "an image has one frame, at 0 s"),
        ({"condition": "a", "then": "b"}, '"then" must be a list like .* increasing times above 0, got "b"'),
        ({"condition": "a", "then": [["b", 1.0]]}, r'"then" must be a list like .* got \[\["b", 1.0\]\]'),
        ({"condition": "a", "then": [[0, "b"]]}, r"increasing times above 0, got \[\[0,"),
        ({"condition": "a", "then": [[0.5, "b"], [0.5, "c"]]}, "increasing times above 0"),
        ({"condition": "a", "then": [[True, "b"]]}, "increasing times above 0"),
        ({"condition": "a", "then": [[0.5, "b", "c"]]}, "increasing times above 0"),
        ({"condition": "a", "then": [[2.0, "b"]]}, r'"then" changes the condition at 2 s, but the clip ends at 1\.125 s'),
    ],
)
def test_wrong_lines_are_named_in_setup(tmp_path, picture, line, message):
    write_mp4(tmp_path / "short.mp4", torch.zeros(3, 3, 16, 24, dtype=torch.uint8), fps=8.0)
    path = write_prompts(tmp_path, {"condition": "fine", "name": "first"}, line)
    with pytest.raises(ValueError, match=rf"prompts\.jsonl:2: .*{message}"):
        Prompts(path, clip=CLIP).setup("predict")


def test_missing_and_empty_prompts(tmp_path):
    (tmp_path / "empty.txt").write_text("\n\n")
    for prompts, message in (
        (str(tmp_path / "gone.txt"), "there is no file .*gone.txt"),
        (str(tmp_path / "empty.txt"), "there are no prompts in .*empty.txt"),
        ([], "there are no prompts"),
        ("a cat", "or a list like"),
    ):
        with pytest.raises(ValueError, match=message):
            Prompts(prompts, clip=CLIP).setup("predict")
    with pytest.raises(ValueError, match="samples 0"):
        Prompts(["a"], samples=0)


def test_slugs_are_short_and_safe():
    assert slug("  Über/../Straße: 5%  ") == "über-straße-5"
    assert slug("🙂") == "clip"
    assert len(slug("word " * 50)) <= 40


def test_from_the_command_line():
    parser = ArgumentParser()
    parser.add_class_arguments(Prompts, "data")
    data = parser.parse_args(['--data.prompts=["3 left", "4 up"]', "--data.clip.frames=17"]).data
    assert data.prompts == ["3 left", "4 up"] and data.clip.frames == 17
    assert parser.parse_args(["--data.prompts=prompts.txt"]).data.prompts == "prompts.txt"


class Reader(LightningModule):
    """Gives every request back."""

    def predict_step(self, batch: Requests) -> Requests:
        return batch


def test_a_trainer_runs_them():
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    batches = trainer.predict(Reader(), datamodule=Prompts(["a", "b", "c"], clip=CLIP, batch_size=2))
    assert [batch["condition"] for batch in batches] == [["a", "b"], ["c"]]
