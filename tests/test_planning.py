"""What the planner computes is what a training takes."""

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_transformer
from test_perceptual import make_vgg16
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from toy_runs import CONFIGS, ROOT, TESTS

from modules.autoregression import bit_loss
from modules.geometry import Clip, Layout, Pyramid
from modules.loading import build
from modules.planning import (
    Devices,
    Memory,
    TokenizerTraining,
    flops_of,
    memory_of,
    step_cost,
    tokenizer_flops_of,
    tokenizer_memory_of,
)
from modules.planning.flops import encoding_operations, pairs
from modules.planning.memory import STATES
from modules.planning.tokenizer import kept as kept_by_tokenizer
from modules.tokenizer import VideoTokenizer
from modules.training.optim import decay_groups
from modules.transformer import ClassCondition, Execution, VideoARTransformer
from modules.transformer.attention.masks import block_of_tokens, dense, visible_blocks
from modules.transformer.sequence import TokenSequence
from scripts.plan import compose, main, plan


@dataclass(frozen=True)
class Case:
    """A small training."""

    width: int
    layers: int
    layout: Layout
    batch: int
    activation_checkpointing: bool = False
    history: str = "all_scales"


SLOW = pytest.mark.slow
PRECISIONS = pytest.mark.parametrize("bf16", [pytest.param(False, id="float32"), pytest.param(True, id="bf16", marks=SLOW)])

CASES = [
    Case(128, 3, Layout(Pyramid.of(8, 8), 3), 2),
    Case(256, 2, Layout(Pyramid.of(4, 4), 2), 4),
    Case(128, 6, Layout(Pyramid.of(8, 8), 2), 4, activation_checkpointing=True),
    Case(192, 2, Layout(Pyramid.of(4, 6), 3), 3, history="last_scale"),
]


def builder(case: Case) -> Any:
    def build(layers: int | None, activation_checkpointing: bool) -> VideoARTransformer:
        settings = {"history": case.history, "execution": Execution("dense", activation_checkpointing)}
        return VideoARTransformer(16, lambda width: ClassCondition(width, (7,)), case.width, layers or case.layers, 4, **settings)

    return build


def allocated(profiler: profile) -> int:
    """Bytes that came and did not go while the profiler watched, by the allocator's own account."""
    events = profiler.profiler.kineto_results.events()
    return sum(event.nbytes() for event in events if event.name() == "[memory]")


def measured(case: Case, bf16: bool) -> int:
    """Bytes held at the end of a second forward pass, when weights, averages, gradients and what is kept are all there."""
    batch, bits = case.batch, 16
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        model = builder(case)(None, case.activation_checkpointing)
        optimizer = torch.optim.AdamW(decay_groups(model))
        for step in range(3):
            inputs = torch.zeros(batch, case.layout.tokens, bits)
            complete = torch.zeros(batch, case.layout.frames, bits, *case.layout.pyramid.sizes[-1])
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                logits = model(inputs, case.layout, torch.zeros(batch, 1, dtype=torch.long), complete=complete)
                loss = bit_loss(logits, torch.zeros(inputs.shape, dtype=torch.bool))
            if step < 2:
                loss.backward()
            if step == 0:
                optimizer.step()
                optimizer.zero_grad()
    return allocated(profiler)


@PRECISIONS
@pytest.mark.parametrize("case", [CASES[0], *(pytest.param(case, marks=SLOW) for case in CASES[1:])], ids=str)
def test_memory_is_what_a_training_takes(case: Case, bf16: bool) -> None:
    # Once before, so that indices and masks, which stay for other runs, are not counted.
    measured(case, bf16)
    memory = memory_of(builder(case), case.layout, case.activation_checkpointing, bf16)
    model = builder(case)(None, case.activation_checkpointing)
    assert memory.parameters == sum(parameter.numel() for parameter in model.parameters())
    states, found = memory.parameters * STATES, measured(case, bf16)
    assert states + memory.kept(case.batch) == pytest.approx(found, rel=0.05)
    assert memory.kept(case.batch) == pytest.approx(found - states, rel=0.05)


TOKENIZER = ["-c", str(CONFIGS / "tokenizer.yaml"), "-c", str(TESTS / "toy.yaml"), "--trainer.devices", "1"]
CRITICS = [*TOKENIZER, "--model.adversarial", "AdversarialLoss", "--model.adversarial.channels", "8"]


def training_of(args: list[str]) -> TokenizerTraining:
    model = build(compose(args)["model"], "here", {"optimizer", "discriminator_optimizer"})
    return TokenizerTraining(model.tokenizer, model.loss, model.perceptual, model.adversary)


def measured_tokenizer(args: list[str], clip: Clip, batch: int, bf16: bool) -> int:
    """Bytes held when the forward pass of a second step has ended, with weights, averages and gradients."""
    make = partial(training_of, args)
    make()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        training = make()
        optimizer = torch.optim.AdamW(training.networks.parameters())
        video = torch.zeros(batch, 3, clip.frames, clip.height, clip.width)
        for parameter in training.networks.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            result, loss = training.forward(video)
    assert result.video.shape == video.shape and loss.requires_grad
    return allocated(profiler)


def measured_critics(args: list[str], clip: Clip, batch: int, bf16: bool) -> int:
    """Bytes that the critics' forward pass adds to what the tokenizer's step made."""
    training, video = training_of(args), torch.zeros(batch, 3, clip.frames, clip.height, clip.width)
    assert training.adversary is not None
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16), torch.no_grad():
        result, _ = training.forward(video)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=bf16)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler, autocast:
        judged = training.adversary.discriminator_loss(video, result.video)
    made = [video, result.video, result.latent, *result.quantized.bits, result.quantized.latent]
    assert judged["loss"].requires_grad
    return allocated(profiler) + sum(value.untyped_storage().nbytes() for value in made)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    """VGG16 with random weights."""
    path = tmp_path_factory.mktemp("weights") / "vgg16.pth"
    torch.save({f"features.{name}": value for name, value in make_vgg16().state_dict().items()}, path)
    return str(path)


@PRECISIONS
@pytest.mark.parametrize("kind", ["alone", *(pytest.param(kind, marks=SLOW) for kind in ("with critics", "with perceptual loss"))])
def test_memory_of_a_tokenizer_is_what_a_training_takes(kind: str, bf16: bool, backbone: str) -> None:
    perceptual = ["--model.perceptual", "PerceptualLoss", "--model.perceptual.backbone", backbone, "--model.loss.perceptual", "1"]
    args = {"alone": TOKENIZER, "with critics": CRITICS, "with perceptual loss": [*TOKENIZER, *perceptual]}[kind]
    clip, batch, training = Clip(5, 32, 32), 3, training_of(args)
    memory = tokenizer_memory_of(partial(training_of, args), clip, bf16)
    assert memory.parameters == training.trained
    states, found = memory.parameters * STATES + 4 * training.frozen, measured_tokenizer(args, clip, batch, bf16)
    assert states + memory.kept(batch) == pytest.approx(found, rel=0.05)
    assert memory.kept(batch) == pytest.approx(found - states, rel=0.05)


@SLOW
@PRECISIONS
def test_memory_of_the_critics_own_step(bf16: bool) -> None:
    clip, batch = Clip(5, 32, 32), 3
    of_tokenizer, of_critics = kept_by_tokenizer(partial(training_of, CRITICS), clip, batch, bf16)
    assert of_critics == pytest.approx(measured_critics(CRITICS, clip, batch, bf16), rel=0.05)
    assert tokenizer_memory_of(partial(training_of, CRITICS), clip, bf16).kept(batch) == pytest.approx(of_tokenizer, rel=0.01)
    assert of_critics < 0.1 * of_tokenizer
    heavy = partial(training_of, [*CRITICS, "--model.adversarial.channels", "1024"])
    of_tokenizer, of_critics = kept_by_tokenizer(heavy, clip, batch, bf16)
    assert tokenizer_memory_of(heavy, clip, bf16).kept(batch) == pytest.approx(max(of_tokenizer, of_critics), rel=0.01)


def test_work_of_a_tokenizer_is_what_a_step_does() -> None:
    clip = Clip(5, 16, 16)
    with torch.device("meta"):
        empty = training_of(CRITICS)
    work = tokenizer_flops_of(empty, clip)
    training, video = training_of(CRITICS), torch.rand(1, 3, 5, 16, 16)
    with FlopCounterMode(display=False) as counter:
        result, loss = training.forward(video)
        loss.backward()
        assert training.adversary is not None
        training.adversary.discriminator_loss(video, result.video)["loss"].backward()
    assert work.training == pytest.approx(counter.get_total_flops(), rel=1e-6)
    assert work.training > 3 * encoding_operations(training.tokenizer.to("meta"), clip) > 0


def test_checkpointing_keeps_less_and_computes_a_block_again() -> None:
    case = CASES[2]
    with_it, without = (
        memory_of(builder(case), case.layout, activation_checkpointing, bf16=False) for activation_checkpointing in (True, False)
    )
    assert with_it.per_clip < 0.3 * without.per_clip and without.recomputed == 0
    assert without.per_clip / case.layers == pytest.approx(with_it.recomputed, rel=0.3)


@pytest.mark.parametrize(("window", "history"), [(None, "all_scales"), (1, "all_scales"), (None, "last_scale")])
def test_pairs_are_those_of_the_mask(window: int | None, history: Any) -> None:
    sequence = TokenSequence(Layout(Pyramid.of(4, 4), 3), 2, history)
    assert pairs(sequence, window) == int(dense(visible_blocks(sequence, window), block_of_tokens(sequence)).sum())


def test_work_is_counted_by_hand() -> None:
    with torch.device("meta"):
        tokenizer, transformer = VideoTokenizer(bits=8, channels=24, multipliers=(1, 1, 1), blocks=1), make_transformer()
    work = flops_of(tokenizer, transformer, Clip(9, 16, 16))
    tokens, width = 3 * (1 + 4 + 9 + 16), 48
    assert (work.tokens, work.sequence) == (tokens, tokens + 2)
    block = width * (3 + 1 + 8 + 4) * width
    once = width * 6 * width + width * 2 * width
    assert work.linear == 2 * ((tokens + 2) * 2 * block + tokens * 2 * 8 * width + once)
    assert work.training == 3 * (work.linear + work.attention) and work.encoding > 0
    assert work.done(activation_checkpointing=True) == 4 * (work.linear + work.attention) + work.encoding


MEMORY = Memory(parameters=1000, block=200, layers=4, fixed=10, per_clip=100, recomputed=0)


def test_shares_and_copies() -> None:
    with torch.device("meta"):
        networks = VideoTokenizer(bits=8, channels=24, multipliers=(1, 1, 1), blocks=1), make_transformer()
    work = flops_of(*networks, Clip(5, 16, 16))
    single, ddp, fsdp = (
        step_cost(MEMORY, work, Devices(strategy, ranks, 1.0, 0.5), batch=2, accumulate=3, frozen={"tokenizer": 50})  # type: ignore[arg-type]
        for strategy, ranks in (("single", 1), ("ddp", 4), ("fsdp", 4))
    )
    assert single.components == ddp.components and single.memory == 16 * 1000 + 4 * 50 + 210
    assert fsdp.memory == 16 * 250 + 4 * 50 + 210 + 4 * (3 * 200 + 2 * 200)
    assert (single.clips, ddp.clips) == (6, 24) and single.seconds == ddp.seconds == 6 * work.done(False) / 0.5e12
    assert single.checkpoint == 4 * (3000 + 50)


@pytest.mark.parametrize(
    ("settings", "message"),
    [(("single", 2, 1.0, 0.5), "2 devices do not fit"), (("ddp", 2, 1.0, 1.5), "utilisation"), (("ddp", 0, 1.0, 0.5), "0 dev")],
)
def test_impossible_machines_are_refused(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Devices(*settings)


def test_the_command_follows_the_configuration(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    args = ["-c", "configs/videoar.yaml", "-c", "configs/trainer/ddp.yaml", "--trainer.devices", "8", "--trainer.num_nodes", "2"]
    main(
        [
            *args,
            "--data.batch_size",
            "3",
            "--trainer.max_steps",
            "10",
            "--tflops",
            "100",
            "--model.transformer.execution.activation_checkpointing",
            "true",
        ]
    )
    text = capsys.readouterr().out
    assert "ddp on 16 devices, float32, activation checkpointing on, 3 clips per device" in text
    assert "| clips per step | 48 |" in text and "one recomputed block" in text
    with pytest.raises(SystemExit, match="give the number of devices of a node"):
        main(args[:4])


def test_the_command_plans_tokenizers_too(capsys: pytest.CaptureFixture[str]) -> None:
    main(CRITICS)
    text = capsys.readouterr().out
    assert "its discriminators" in text and "| clips per step | 4 |" in text and "attention" not in text and "single on 1 devices" in text
    config = compose(TOKENIZER)
    config["trainer"] |= {"strategy": {"class_path": "modules.training.fsdp.FullySharded"}, "devices": 2}
    with pytest.raises(ValueError, match="a tokenizer cannot be sharded"):
        plan(config, 1.0, 0.5)


def test_no_gpu_is_needed_to_plan_for_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    size = ["--model.transformer", "configs/size/videoar_125m.yaml", "--model.tokenizer", "configs/size/tokenizer_base.yaml"]
    config = compose(["-c", "configs/videoar.yaml", *size, "-c", "configs/trainer/bf16.yaml", "--trainer.accelerator", "gpu"])
    assert "transformer 118," in plan(config, 989, 0.4, 1e9) and not list(tmp_path.iterdir())
    assert asdict(Devices("single", 1, 989, 0.4))["tflops"] == 989
