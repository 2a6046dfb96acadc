"""From latents to a model, as a user types it: nothing differs from training on the clips themselves."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from latent_runs import CACHED, ENCODE, Made, encode, files, losses, make
from toy_runs import CONFIGS, compose, run, weights

from datamodules import CachedLatents, Mixture, MovingDigits
from datamodules.base import StageOverride
from modules.geometry import Clip
from modules.tokenizer import encoder

ROLLOUT = ("--model.rollout", "Rollout", "--model.rollout.fraction", 0.5)
TRAIN = ("--trainer.max_steps", 6, "--trainer.val_check_interval", 3)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("made"))


@pytest.mark.parametrize("options", [pytest.param((), id="corrupted", marks=pytest.mark.slow), pytest.param(ROLLOUT, id="rollout")])
def test_a_model_learns_from_latents_what_it_learns_from_clips(made: Made, tmp_path: Path, options: tuple) -> None:
    """Flipped bits, error inheritance and corrected targets included, over two epochs and two validations."""
    start = ("--init_from", made.model, *TRAIN, *options)
    run("fit", "videoar", tmp_path / "clips", *start)
    run("fit", "videoar", tmp_path / "latents", *CACHED, "--data.folder", made.latents, *start)
    expected, found = losses(tmp_path / "clips"), losses(tmp_path / "latents")
    assert len(expected) == 8 and found == pytest.approx(expected, abs=1e-4)
    assert len(set(expected)) == 8


def test_a_run_over_a_cache_resumes_exactly(made: Made, tmp_path: Path) -> None:
    """Stopped in the middle of an epoch and after it: the losses of all parts are those of a run that never stopped."""
    often = ("--trainer.val_check_interval", 3, "--checkpoint.every_n_train_steps", 1, "--ckpt_path", "last")
    for root, stops in (("whole", (6,)), ("parts", (2, 5, 6))):
        for stop in stops:
            start = ("--data.folder", made.latents, "--init_from", made.model, "--trainer.max_steps", stop)
            run("fit", "videoar", tmp_path / root, *CACHED, *start, *often)
    whole, parts = (losses(tmp_path / root) for root in ("whole", "parts"))
    assert len(whole) == 8 and parts == whole


def test_shorter_clips_are_cut_from_longer_ones(made: Made, tmp_path: Path) -> None:
    latents = encode(tmp_path, made.tokenizer, "--data.clip.frames", 9)
    tokenizer = compose("tokenizer", tmp_path).model.tokenizer
    tokenizer.load_state_dict({name.removeprefix("tokenizer."): value for name, value in weights(made.tokenizer).items()})
    video = MovingDigits(Clip(9, 16, 16), clips=16, held_out=4).dataset("train")[2]["video"][None].float() / 127.5 - 1
    for frames in (1, 5, 9):
        cached = CachedLatents(Clip(frames, 16, 16), folder=str(latents))
        expected = tokenizer.eval().encode_for_tokens(video[:, :, :frames])[0]
        torch.testing.assert_close(cached.dataset("train")[2]["latent"], expected, atol=1e-5, rtol=1e-5)


def test_clips_may_grow_and_be_mixed_with_videos(made: Made, tmp_path: Path) -> None:
    """The batches are those of the clips themselves in the same mixture; latents of another tokenizer are found in it too."""
    clip, milestones = Clip(5, 16, 16), {6: StageOverride(frames=1, batch_size=2)}
    whole = {name: MovingDigits(clip, clips=16, held_out=4, batch_size=4, milestones=milestones) for name in ("a", "b")}
    cached = {**whole, "a": CachedLatents(clip, folder=str(made.latents), batch_size=4, milestones=milestones)}
    seen = []
    for parts in (whole, cached):
        data = Mixture(parts["a"].clip, parts=parts, ratio={"a": 2, "b": 1}, main="a")
        data.setup("fit")
        loader = data.train_dataloader()
        batches = [batch for _ in range(2) for batch in loader]
        seen.append([batch["index"].tolist() for batch in batches])
    assert seen[0] == seen[1]
    assert {batch["latent"].shape[2] for batch in batches if "latent" in batch} == {1, 2}
    assert {batch["video"].shape[2] for batch in batches if "video" in batch} == {1, 5}
    other = {**data.parts["a"].header.tokenizer, "encoder": "other"}
    with pytest.raises(ValueError, match=r"has latents of tokenizer .*, but the model has tokenizer .*encoder other"):
        data.check_tokenizer(other, "other.ckpt")


@pytest.mark.parametrize("clip", [Clip(9, 16, 16), Clip(4, 16, 16), Clip(5, 32, 16), Clip(5, 16, 16, 4)])
def test_clips_that_the_cache_does_not_have_are_refused(made: Made, clip: Clip) -> None:
    message = (
        rf"latents has latents of clips with frames 5, height 16, width 16, fps 8; requested frames {clip.frames}, height {clip.height}, "
        rf"width 16, fps {clip.fps:g} \(1 \+ 4 \* n frames, at most as encoded\)"
    )
    with pytest.raises(ValueError, match=message):
        CachedLatents(clip, folder=str(made.latents)).setup("fit")


@pytest.mark.slow
def test_another_tokenizer_is_refused_with_both_named(made: Made, tmp_path: Path) -> None:
    other = run("fit", "tokenizer", tmp_path / "other", "--seed_everything", 1)
    shutil.copytree(made.latents, tmp_path / "latents")
    hashes = r"decoder \w{12}, encoder \w{12}"
    with pytest.raises(
        ValueError, match=rf"latents of tokenizer {hashes} \(.*tokenizer.*last\.ckpt\), not of {hashes} \(.*other.*last\.ckpt\)"
    ):
        encode(tmp_path, other)
    with pytest.raises(ValueError, match=r"was begun with clip\.frames 5, not 9: use another folder, or remove that one"):
        encode(tmp_path, made.tokenizer, "--data.clip.frames", 9)
    with pytest.raises(ValueError, match=r"was begun with preprocessing\.seed 0, not 3: use another folder"):
        encode(tmp_path, made.tokenizer, "--data.seed", 3)
    assert files(tmp_path / "latents") == files(made.latents)
    train = ("fit", "videoar", tmp_path / "ar", *CACHED, "--data.folder", made.latents)
    named = rf"has latents of tokenizer {hashes} \(.*tokenizer.*last\.ckpt\), but the model has tokenizer decoder \w{{12}} \(.*other"
    with pytest.raises(ValueError, match=named):
        run(*train, "--init_from", other)
    with pytest.raises(ValueError, match=r"but the model has tokenizer none: give --init_from"):
        run(*train)
    model = run("fit", "videoar", tmp_path / "model", "--init_from", other)
    for command in ("validate", "test"):
        with pytest.raises(ValueError, match=r"but the model has tokenizer decoder \w{12}, encoder \w{12} \(.*model.*last\.ckpt\)"):
            run(
                command, "videoar", tmp_path / "ar", "-c", CONFIGS / "data/cached.yaml", "--data.folder", made.latents, "--ckpt_path", model
            )


def test_the_encoder_is_neither_built_nor_loaded(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = compose("videoar", tmp_path, "--init_from", made.tokenizer).model

    def refuse(*_: object) -> None:
        raise AssertionError("an encoder is built")

    monkeypatch.setattr(encoder.Encoder, "__init__", refuse)
    half = compose("videoar", tmp_path, *CACHED, "--data.folder", made.latents, "--init_from", made.tokenizer).model
    names = {name for name, _ in half.named_parameters()}
    assert names == {name for name, _ in whole.named_parameters() if not name.startswith("tokenizer.encoder.")}
    held = sum(value.numel() for value in whole.tokenizer.encoder.parameters())
    assert held > 10_000 and sum(value.numel() for value in whole.parameters()) - sum(value.numel() for value in half.parameters()) == held
    run("fit", "videoar", tmp_path / "ar", *CACHED, "--data.folder", made.latents, "--init_from", made.tokenizer)
    assert not any(name.startswith("tokenizer.encoder.") for name in weights(tmp_path / "ar/checkpoints/last.ckpt"))


SAMPLE = ("-c", CONFIGS / "sample.yaml", "--data.clip.height", 16, "--data.clip.width", 16, "--data.clip.frames", 9)


@pytest.mark.slow
def test_what_a_cached_run_leaves_can_be_looked_at_and_completed(made: Made, tmp_path: Path) -> None:
    cached = (*CACHED, "--data.folder", made.latents)
    half = run("fit", "videoar", tmp_path / "ar", *cached, "--init_from", made.model, *TRAIN)
    assert {path.name.split("_")[-1] for path in (tmp_path / "ar/images").iterdir()} == {"reconstructed.png", "generated.png"}
    run("test", "videoar", tmp_path / "test", *cached, "--ckpt_path", half)
    report = json.loads((tmp_path / "test/report.json").read_text())
    assert report["protocol"]["clips"] == 4 and 0 < report["metrics"]["test/loss"] < 1 and "test/psnr" not in report["metrics"]

    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"condition": "3 left", "name": "short"}\n{"condition": "3 left", "name": "long", "frames": 13}\n')
    sample = (*SAMPLE, "--data.prompts", prompts)
    with pytest.raises(ValueError, match=r"prompts\.jsonl:2: a video of 13 frames, longer than .*window, needs the tokenizer's encoder"):
        run("predict", "videoar", tmp_path / "half", *CACHED, *sample, "--ckpt_path", half)
    run("predict", "videoar", tmp_path / "half", *CACHED, *SAMPLE, "--data.prompts", "['3 left']", "--ckpt_path", half)
    run("predict", "videoar", tmp_path / "whole", *sample, "--init_from", f"[{half},{made.tokenizer}]")
    (alone,) = (tmp_path / "half/samples").glob("*.mp4")
    assert (tmp_path / "whole/samples/short.mp4").read_bytes() == alone.read_bytes() and (tmp_path / "whole/samples/long.mp4").exists()

    other = run("fit", "tokenizer", tmp_path / "other", "--seed_everything", 1)
    with pytest.raises(ValueError, match=r"other.*last\.ckpt is from another model than .*last\.ckpt: their values of tokenizer\.decoder"):
        compose("videoar", tmp_path, "--init_from", f"[{half},{other}]")


def test_clips_longer_than_the_window_are_refused_before_training(made: Made, tmp_path: Path) -> None:
    latents = encode(tmp_path, made.tokenizer, "--data.clip.frames", 13)
    with pytest.raises(ValueError, match=r"a video of 13 frames, longer than model\.long_video\.window, needs the tokenizer's encoder"):
        run("fit", "videoar", tmp_path, *CACHED, "--data.folder", latents, "--data.clip.frames", 13, "--init_from", made.tokenizer)


def test_a_damaged_shard_ends_a_run_by_its_name(made: Made, tmp_path: Path) -> None:
    shutil.copytree(made.latents, tmp_path / "latents")
    shard = tmp_path / "latents/train/000001.safetensors"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1  # latents are most of a shard
    shard.write_bytes(content)
    with pytest.raises(ValueError, match=r"train/000001\.safetensors is damaged: latent \d does not match its checksum; remove it"):
        run("fit", "videoar", tmp_path / "ar", *CACHED, "--data.folder", tmp_path / "latents", "--init_from", made.tokenizer, *TRAIN)
    shard.unlink()
    with pytest.raises(ValueError, match=r"latents is incomplete: 1 of 5 shards are missing, such as train/000001"):
        run("fit", "videoar", tmp_path / "ar", *CACHED, "--data.folder", tmp_path / "latents", "--init_from", made.tokenizer)
    encode(tmp_path, made.tokenizer)
    assert files(tmp_path / "latents") == files(made.latents)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            ("predict", "tokenizer"),
            r"add -c configs/reconstruct\.yaml; or it encodes clips for training: add -c configs/encode_latents\.yaml",
        ),
        (("predict", "videoar", *ENCODE), r"clips are generated from prompts, which MovingDigits does not have"),
        (
            ("fit", "tokenizer", *CACHED, "--model.tokenizer.class_path", "VideoTokenizer"),
            "a tokenizer needs video, and CachedLatents has latents",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(made: Made, tmp_path: Path, command: tuple, message: str) -> None:
    name, task, *more = command
    start = ("--ckpt_path", made.model if task == "videoar" else made.tokenizer) if name == "predict" else ("--data.folder", made.latents)
    with pytest.raises(ValueError, match=message):
        run(name, task, tmp_path, *more, *start)
