"""The commands of the demo on a folder of someone's own captioned clips, with nothing but the data overlay in between."""

import json
from pathlib import Path

from toy_runs import CONFIGS, run, weights

from modules.geometry import Clip
from scripts.export_digits import export

SMALL = ("--data.clip.height", 16, "--data.clip.width", 16, "--data.batch_size", 2)


def test_captioned_clips_train_a_tokenizer_and_a_model_that_takes_words(tmp_path: Path) -> None:
    manifest = export(tmp_path / "mine", clips=12, clip=Clip(17, 32, 32), seed=1)
    mine = ("--data.manifest", manifest, *SMALL)
    tokenizer = run("fit", "tokenizer", tmp_path / "1", "-c", CONFIGS / "data/folder.yaml", *mine, "--data.clip.frames", 5)
    text = ("-c", CONFIGS / "data/folder_text.yaml")
    model = run("fit", "videoar", tmp_path / "2", *text, *mine, "--data.clip.frames", 9, "--init_from", tokenizer)
    names = json.loads(bytes(weights(model)["transformer.condition._extra_state"].tolist()))
    assert {"moving", "up", "down", "left", "right"} <= set(names)

    run("test", "videoar", tmp_path / "2", *text, *mine, "--data.clip.frames", 9, "--ckpt_path", model)
    assert 0 < json.loads((tmp_path / "2/report.json").read_text())["metrics"]["test/loss"] < 1

    prompts = ("-c", CONFIGS / "sample.yaml", "--data.prompts", '["a 0 moving up"]', *SMALL, "--data.clip.frames", 9)
    run("predict", "videoar", tmp_path / "3", *text, *prompts, "--ckpt_path", model)
    (row,) = [json.loads(line) for line in (tmp_path / "3/samples/manifest.jsonl").read_text().splitlines()]
    assert row["condition"] == "a 0 moving up" and row["frames"] == 9


def test_mask_window_history_norms_and_positions_are_options_of_a_run(tmp_path: Path) -> None:
    mask = ("--model.frame_mask", "modules.transformer.RandomFrameMask", "--model.frame_mask.probability", 0.5)
    options = {
        "window": 1,
        "history": "last_scale",
        "adaptive_norm": "none",
        "rope": "PlainRope",
        "execution.activation_checkpointing": True,
    }
    flags = [flag for name, value in options.items() for flag in (f"--model.transformer.{name}", value)]
    masked = run("fit", "videoar", tmp_path / "masked", *mask, *flags, "--data.clip.frames", 9)
    free = run("fit", "videoar", tmp_path / "free", "--data.clip.frames", 9)
    name = "transformer.blocks.0.attention.qkv.weight"
    assert not weights(masked)[name].equal(weights(free)[name])
