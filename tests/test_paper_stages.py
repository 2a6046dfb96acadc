"""The paper's stages, composed as the command line composes them, against a table of what the paper and we say."""

from typing import Any
from unittest.mock import patch

import pytest
import yaml
from toy_runs import CONFIGS, ROOT

from train import VideoARCLI, main

TEXT_GUIDANCE, UCF_GUIDANCE = [5.0, 4.0, 4.0, 3.0], [1.0, 5.0, 10.0, 10.0]
CORNERS = ("first_frame_first_scale", "last_frame_first_scale", "first_frame_last_scale", "last_frame_last_scale")

# Values that the paper states, for every stage of the autoregressive model.
PAPER = {
    "flip_ratio": {"p_min": 0.0, "p_max": 0.25, "delta": 0.01, "delta_min": None, "ramp": "none", "start_step": 0, "end_step": None},
    "error_inheritance": {"start_step": 0},
    "optimizer": ("torch.optim.AdamW", {"lr": 1e-4, "betas": [0.9, 0.95], "weight_decay": 0.05}),
    "condition_dropout": 0.1,
    "precision": "bf16-mixed",
    "activation_checkpointing": True,
}
# Frames, height, width, rate; guidance; random frame mask; condition. Paper, except the rate of UCF-101, the mask's 0.2 and the condition.
STAGES = {
    "paper_1_joint_256": ((17, 256, 256, 8.0), TEXT_GUIDANCE, 0.2, "FeatureCondition"),
    "paper_2_joint_512": ((17, 512, 512, 8.0), TEXT_GUIDANCE, 0.2, "FeatureCondition"),
    "paper_3_long": ((65, 384, 672, 8.0), TEXT_GUIDANCE, 0.2, "FeatureCondition"),
    "paper_1_joint_ucf101": ((17, 128, 128, 25.0), UCF_GUIDANCE, None, "ClassCondition"),
}


def composed(*args: str) -> dict[str, Any]:
    """The configuration of a fit, without building anything."""
    steps = {name: lambda *_: None for name in ("instantiate_classes", "after_instantiate_classes", "_run_subcommand")}
    with patch.multiple(VideoARCLI, **steps):
        return main(["fit", "-c", "configs/videoar.yaml", *args]).config["fit"].as_dict()


def test_every_paper_stage_is_in_the_table() -> None:
    assert {file.stem for file in (CONFIGS / "stage").glob("paper_*.yaml")} == set(STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_stages_compose_to_the_papers_values(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    clip, guidance, mask, condition = STAGES[stage]
    config = composed("-c", f"configs/stage/{stage}.yaml")
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    network, sampler = model["transformer"]["init_args"], model["sampler"]["init_args"]
    found = {
        **{name: config[name]["init_args"] for name in ("flip_ratio", "error_inheritance")},
        "optimizer": (model["optimizer"]["class_path"], {key: model["optimizer"]["init_args"][key] for key in PAPER["optimizer"][1]}),  # type: ignore[index]
        "condition_dropout": model["condition_dropout"],
        "precision": config["trainer"]["precision"],
        "activation_checkpointing": network["execution"]["activation_checkpointing"],
    }
    print(yaml.safe_dump({"stage": stage, **found}))  # noqa: T201 - for the reader of the test's output
    found["optimizer"] = (found["optimizer"][0], {**found["optimizer"][1], "betas": list(found["optimizer"][1]["betas"])})
    assert found == PAPER
    assert tuple(data["clip"][key] for key in ("frames", "height", "width", "fps")) == clip
    assert [sampler["guidance"][corner] for corner in CORNERS] == guidance
    assert (sampler["temperature"], sampler["top_p"]) == (1.0, 1.0)
    assert (model["frame_mask"] and model["frame_mask"]["init_args"]["probability"]) == mask
    assert network["condition"]["class_path"].rsplit(".")[-1] == condition
    assert (model["scale_weights"] or {"init_args": {"rule": "flat"}})["init_args"]["rule"] == "flat"
    for part in data.get("parts", {}).values():
        own = part["init_args"]["clip"]
        assert own["frames"] in (1, clip[0]) and (own["height"], own["width"]) == clip[1:3]


def test_named_guidance_files_are_those_of_the_stages() -> None:
    for name, corners in (("text_to_video", TEXT_GUIDANCE), ("ucf101", UCF_GUIDANCE)):
        sampler = yaml.safe_load((CONFIGS / f"guidance/{name}.yaml").read_text())["model"]["init_args"]["sampler"]["init_args"]
        assert [sampler["guidance"][corner] for corner in CORNERS] == corners and sampler["temperature"] == 1.0
