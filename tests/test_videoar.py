"""A finished run becomes a model in one line, and makes what the command line makes."""

from itertools import islice
from pathlib import Path

import pytest
import torch
from conftest import perturbed
from toy_runs import run

from modules import load
from modules.videoar import VideoAR


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    run("fit", "videoar", folder, "--trainer.max_steps", 2)
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> VideoAR:
    return load(folder)


def test_a_video_depends_on_its_seed_and_not_on_its_neighbours(model: VideoAR) -> None:
    both = model.generate(["3 left", "7 up"], frames=9, seed=4)
    assert both.shape == (2, 3, 9, 16, 16) and both.dtype == torch.uint8
    alone = model.generate("7 up", frames=9, seed=5)
    assert (alone.int() - both[1:].int()).abs().max() <= 1
    assert not torch.equal(alone, model.generate("7 up", frames=9, seed=6))


def test_the_length_is_that_of_the_training_clips_unless_asked_for(model: VideoAR) -> None:
    assert model.generate("0 up").shape[2] == model.clip.frames
    assert model.generate("0 up", frames=21).shape[2] == 21


def test_a_stream_is_the_video(folder: Path) -> None:
    model = load(folder)
    perturbed(model.generation.transformer)  # two steps taught it too little to tell one class from another
    then = [(0.5, ["5 down"])]
    whole = model.generate("3 left", frames=21, seed=1, then=then)
    pieces = torch.cat(list(islice(model.stream("3 left", seed=1, then=then), 6)), dim=2)
    assert (pieces.int() - whole.int()).abs().max() <= 1
    assert not torch.equal(whole, model.generate("3 left", frames=21, seed=1))


@pytest.mark.parametrize("frames", [1, 5])
def test_a_prefix_comes_first(model: VideoAR, frames: int) -> None:
    prefix = torch.randint(256, (3, frames, 16, 16), dtype=torch.uint8)
    assert torch.equal(model.generate(["0 up", "1 up"], frames=9, prefix=prefix)[:, :, :frames], prefix.expand(2, -1, -1, -1, -1))


def test_a_checkpoint_is_as_good_as_its_folder(model: VideoAR, folder: Path) -> None:
    again = load(folder / "checkpoints" / "last.ckpt").generate("3 left", seed=2)
    assert torch.equal(again, model.generate("3 left", seed=2))


def test_what_cannot_be_made_is_refused(model: VideoAR) -> None:
    with pytest.raises(ValueError, match="unknown class '3 lefft'"):
        model.generate("3 lefft")
    with pytest.raises(ValueError, match=r"got 10; the nearest are 9 and 13"):
        model.generate("3 left", frames=10)
    with pytest.raises(ValueError, match=r"a prefix must be uint8 .* got float32 \(3, 1, 16, 16\)"):
        model.generate("3 left", prefix=torch.zeros(3, 1, 16, 16))
    with pytest.raises(ValueError, match="a prefix must have .* got 2"):
        model.generate("3 left", prefix=torch.zeros(3, 2, 16, 16, dtype=torch.uint8))
    with pytest.warns(UserWarning, match="17 x 16 .* trained on 16 x 16"), pytest.raises(ValueError, match="height must be a multiple of"):
        model.generate("3 left", prefix=torch.zeros(3, 1, 17, 16, dtype=torch.uint8))


def test_a_prefix_of_another_shape_is_told(model: VideoAR) -> None:
    with pytest.warns(UserWarning, match="a prefix of 16 x 24 pixels makes a video of that size; the model was trained on 16 x 16"):
        assert model.generate("3 left", frames=5, prefix=torch.zeros(3, 1, 16, 24, dtype=torch.uint8)).shape[3:] == (16, 24)


def test_what_is_no_such_run_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no checkpoint .*nothing"):
        load(tmp_path / "nothing")
    lonely = tmp_path / "lonely.ckpt"
    lonely.write_bytes((folder / "checkpoints" / "last.ckpt").read_bytes())
    with pytest.raises(FileNotFoundError, match=r"needs the fit\.yaml of its run"):
        load(lonely)
    config = (folder / "fit.yaml").read_text()
    (tmp_path / "fit.yaml").write_text(config.replace("width: 48", "width: 40"))
    with pytest.raises(ValueError, match="of another architecture"):
        load(lonely)
    (tmp_path / "fit.yaml").write_text(config.replace("modules.autoregression.InMemoryLatentCache", "mine.Memory"))
    assert load(lonely).clip.frames == 5  # what only training needs may be gone
    (tmp_path / "fit.yaml").write_text(config.replace("width: 48", "wide: 48"))
    with pytest.raises(ValueError, match=r"fit\.yaml of .*wide"):
        load(lonely)
    (tmp_path / "fit.yaml").write_text("model: {class_path: modules.LitTokenizer}")
    with pytest.raises(ValueError, match=r"fit\.yaml trains a tokenizer, .* use modules\.load_tokenizer"):
        load(lonely)
