"""A video file through a trained tokenizer, as a user types it."""

import csv
import json
from pathlib import Path

import pytest
import torch
from test_media import read_mp4
from test_reader import write_video
from toy_runs import CONFIGS, run

from datamodules.predict.video_files import VideoFiles


def test_a_file_of_any_length_and_size_is_reconstructed(tmp_path: Path) -> None:
    checkpoint = run("fit", "tokenizer", tmp_path / "fit")
    levels = [3 * number for number in range(37)]
    path = write_video(tmp_path / "own.mkv", levels, codec="ffv1", size=(38, 50), pixels="yuv444p")
    source = VideoFiles([str(path)], 37)
    source.setup("predict")
    real = next(iter(source.predict_dataloader()))["video"][0]

    results = {}
    for chunk_frames in (16, 7):
        root = tmp_path / f"chunks of {chunk_frames}"
        options = ("-c", CONFIGS / "reconstruct.yaml", f"--data.files=['{path}']", "--data.chunk_frames", chunk_frames)
        run("predict", "tokenizer", root, *options, "--ckpt_path", checkpoint)
        made = root / "reconstructions"
        assert {file.name for file in made.iterdir()} == {"own.mp4", "own.csv", "contact_sheet.png", "reconstructions.jsonl"}
        shown, fps = read_mp4(made / "own.mp4")
        assert shown.shape == (3, 37, 38, 100) and fps == pytest.approx(25.0)
        assert (shown[..., :50].float() - real.float()).abs().mean() < 3.0
        line = json.loads((made / "reconstructions.jsonl").read_text())
        assert (line["frames"], line["height"], line["width"], line["checkpoint"]) == (37, 38, 50, str(checkpoint))
        with (made / "own.csv").open() as table:
            scores = torch.tensor([float(row["psnr"]) for row in csv.DictReader(table)])
        assert len(scores) == 37 and scores.isfinite().all() and scores.min() > 0
        results[chunk_frames] = scores
    assert torch.allclose(results[16], results[7], atol=0.05)
