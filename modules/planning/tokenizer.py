"""What a training step of the tokenizer needs, with its critics and its perceptual loss, counted on tensors without content."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from modules.geometry import Clip
from modules.planning.memory import Kept, Memory
from modules.planning.work import Work
from modules.tokenizer import Adversary, PerceptualLoss, Reconstruction, TokenizerLoss, VideoTokenizer


class TokenizerTraining(NamedTuple):
    """All networks of a training, and the weights of its loss."""

    tokenizer: VideoTokenizer
    loss: TokenizerLoss
    perceptual: PerceptualLoss | None = None
    adversary: Adversary | None = None

    @property
    def networks(self) -> nn.ModuleList:
        return nn.ModuleList(network for network in (self.tokenizer, self.perceptual, self.adversary) if network is not None)

    @property
    def trained(self) -> int:
        """Number of parameters that are trained."""
        return sum(parameter.numel() for parameter in self.networks.parameters() if parameter.requires_grad)

    @property
    def frozen(self) -> int:
        return sum(parameter.numel() for parameter in self.networks.parameters() if not parameter.requires_grad)

    def forward(self, video: Tensor) -> tuple[Reconstruction, Tensor]:
        """What the tokenizer's step is made from: its output and its loss."""
        result = self.tokenizer(video)
        loss = self.loss(result, video, self.perceptual)["loss"]
        return result, loss if self.adversary is None else loss + self.adversary.generator_loss(result.video)


def tokenizer_memory_of(build: Callable[[], TokenizerTraining], clip: Clip, bf16: bool) -> Memory:
    """What it keeps. The critics' own step comes when what the tokenizer kept is gone, and is not counted.

    Args:
        build: Makes the networks.
        clip: What a clip measures.
        bf16: Whether in mixed precision.
    """
    one, two = (kept(build, clip, batch, bf16) for batch in (1, 2))
    with torch.device("meta"):
        training = build()
    return Memory(training.trained, block=0, layers=0, fixed=2 * one - two, per_clip=two - one, recomputed=0)


def kept(build: Callable[[], TokenizerTraining], clip: Clip, batch: int, bf16: bool) -> int:
    """Bytes that a forward pass keeps for the backward pass."""
    with torch.device("meta"):
        training = build()
    with FakeTensorMode(allow_non_fake_inputs=True):
        networks = training.networks.to_empty(device="cpu")
        video = torch.empty(batch, 3, clip.frames, clip.height, clip.width)
        found = Kept(networks)
        hooks = torch.autograd.graph.saved_tensors_hooks(found.note, lambda tensor: tensor)
        with hooks, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            training.forward(video)
        return found.bytes


def tokenizer_work_of(training: TokenizerTraining, clip: Clip) -> Work:
    """The arithmetic of both steps, forward and backward, for networks on the meta device; counted, and a third of it called forward."""
    video = torch.empty(1, 3, clip.frames, clip.height, clip.width, device="meta")
    with FlopCounterMode(display=False) as counter:
        result, loss = training.forward(video)
        loss.backward()
        if training.adversary is not None:
            training.adversary.critic_loss(video, result.video)["loss"].backward()
    tokens = training.tokenizer.layout(clip).tokens
    return Work(tokens, tokens, counter.get_total_flops() // 3, attention=0, encoding=0)
