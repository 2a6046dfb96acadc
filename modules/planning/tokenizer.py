"""Memory and FLOPs of a training step of the tokenizer, with discriminators and perceptual loss, counted on fake tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from modules.geometry import Clip
from modules.planning.flops import Flops
from modules.planning.memory import Memory, SavedTensors
from modules.tokenizer import AdversarialLoss, PerceptualLoss, Reconstruction, TokenizerLoss, VideoTokenizer


class TokenizerTraining(NamedTuple):
    """All networks of a tokenizer training, with its loss."""

    tokenizer: VideoTokenizer
    loss: TokenizerLoss
    perceptual: PerceptualLoss | None = None
    adversary: AdversarialLoss | None = None

    @property
    def networks(self) -> nn.ModuleList:
        return nn.ModuleList(network for network in (self.tokenizer, self.perceptual, self.adversary) if network is not None)

    @property
    def trained(self) -> int:
        """Number of trained parameters."""
        return sum(parameter.numel() for parameter in self.networks.parameters() if parameter.requires_grad)

    @property
    def frozen(self) -> int:
        """Number of weights of the perceptual loss, which are buffers; 0 without it."""
        return sum(value.numel() for value in self.perceptual.buffers()) if self.perceptual else 0

    def forward(self, video: Tensor) -> tuple[Reconstruction, Tensor]:
        """Return output and loss of the tokenizer's step."""
        result = self.tokenizer(video)
        loss = self.loss(result, video, self.perceptual)["loss"]
        return result, loss if self.adversary is None else loss + self.adversary.generator_loss(result.video)


def tokenizer_memory_of(build: Callable[[], TokenizerTraining], clip: Clip, bf16: bool) -> Memory:
    """Return the memory of the larger of both steps: the tokenizer's, or the discriminators', which follows it.

    Args:
        build: Builds the networks.
        clip: Size of a clip.
        bf16: Whether precision is bf16-mixed.
    """
    one, two = (kept(build, clip, batch, bf16) for batch in (1, 2))
    steps = [(2 * first - second, second - first) for first, second in zip(one, two, strict=True)]
    fixed, per_clip = max(steps, key=lambda step: step[1])
    with torch.device("meta"):
        training = build()
    return Memory(training.trained, block=0, layers=0, fixed=fixed, per_clip=per_clip, recomputed=0)


def kept(build: Callable[[], TokenizerTraining], clip: Clip, batch: int, bf16: bool) -> list[int]:
    """Return the bytes that the tokenizer's forward pass saves for the backward pass, and the discriminators' bytes, if any."""
    with torch.device("meta"):
        training = build()
    with FakeTensorMode(allow_non_fake_inputs=True):
        networks = training.networks.to_empty(device="cpu")
        video = torch.empty(batch, 3, clip.frames, clip.height, clip.width)
        found, of_discriminators = SavedTensors(networks), SavedTensors(networks)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            with torch.autograd.graph.saved_tensors_hooks(found.note, lambda tensor: tensor):
                result, _ = training.forward(video)
            if training.adversary is None:
                return [found.bytes]
            # Only the outputs of the tokenizer's step are still in memory.
            tree_map_only(Tensor, of_discriminators.note, [video, *vars(result).values(), *vars(result.quantized).values()])
            with torch.autograd.graph.saved_tensors_hooks(of_discriminators.note, lambda tensor: tensor):
                training.adversary.discriminator_loss(video, result.video)
        return [found.bytes, of_discriminators.bytes]


def tokenizer_flops_of(training: TokenizerTraining, clip: Clip) -> Flops:
    """Return the operations of both steps; a third of forward and backward counts as forward. Discards the networks' weights."""
    with FakeTensorMode(allow_non_fake_inputs=True), FlopCounterMode(display=False) as counter:
        training.networks.to_empty(device="cpu")  # not on the meta device, for which autocast cannot be switched off
        video = torch.empty(1, 3, clip.frames, clip.height, clip.width)
        result, loss = training.forward(video)
        loss.backward()
        if training.adversary is not None:
            training.adversary.discriminator_loss(video, result.video)["loss"].backward()
    tokens = training.tokenizer.layout(clip).tokens
    return Flops(tokens, tokens, counter.get_total_flops() // 3, attention=0, encoding=0)
