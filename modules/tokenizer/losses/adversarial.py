"""Adversarial training of the tokenizer: hinge losses, their schedule and LeCAM regularisation (paper 4.1)."""

from __future__ import annotations

import torch
import torch.distributed as distributed
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from modules.tokenizer.losses.discriminator import FrameDiscriminator, VideoDiscriminator


class LeCAM(nn.Module):
    """LeCAM regularisation (Tseng et al. 2021): keeps logits of each class near the running mean of the other class.

    The running means are buffers, so a resumed run continues with them.

    Args:
        decay: Decay of the running means per call, in [0, 1).

    Raises:
        ValueError: If the decay is outside this range.
    """

    averages: Tensor
    started: Tensor

    def __init__(self, decay: float = 0.99) -> None:
        super().__init__()
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"LeCAM's decay must be in [0, 1), got {decay}")
        self.decay = decay
        self.register_buffer("averages", torch.zeros(2))
        self.register_buffer("started", torch.tensor(False))

    def forward(self, real: Tensor, fake: Tensor) -> Tensor:
        """Penalty, a scalar, of float32 logits of any shape; updates the running means first.

        The means start at the first values seen (our decision: starting at zero would pull early logits to zero).
        """
        means = _mean_over_processes(torch.stack([real.mean(), fake.mean()]))
        averages = torch.where(self.started, torch.lerp(means, self.averages, self.decay), means)
        # A step that is skipped because its logits are not finite must not leave NaN in the running means.
        finite = means.isfinite().all()
        self.averages.copy_(torch.where(finite, averages, self.averages))
        self.started.logical_or_(finite)
        average_real, average_fake = averages
        return F.relu(real - average_fake).square().mean() + F.relu(average_real - fake).square().mean()


class AdversarialLoss(nn.Module):
    """Discriminators of frames and of video, with the losses of generator and discriminators.

    Args:
        weight: Weight of the adversarial term in the tokenizer's loss (0.3 in the recipe of Infinity's released tokenizer).
        start_step: First step with discriminators.
        ramp_steps: Steps over which the weight then rises from zero; 0 for none.
        channels: Channels of the discriminators' first layer.
        layers: Discriminator layers that halve height and width.
        lecam: Weight of the LeCAM penalty in the discriminators' loss.

    Raises:
        ValueError: If a weight or a number of steps is negative, or the discriminators would be empty.
    """

    def __init__(
        self,
        *,
        weight: float = 0.3,
        start_step: int = 0,
        ramp_steps: int = 0,
        channels: int = 64,
        layers: int = 3,
        lecam: float = 0.05,
    ) -> None:
        super().__init__()
        for name, value in {"weight": weight, "start_step": start_step, "ramp_steps": ramp_steps, "lecam": lecam}.items():
            if value < 0:
                raise ValueError(f"the adversarial loss's {name} must not be negative, got {value}")
        self.weight, self.lecam = weight, lecam
        self.start_step, self.ramp_steps = start_step, ramp_steps
        # Named as in existing checkpoints.
        self.critics = nn.ModuleDict({"frame": FrameDiscriminator(channels, layers), "video": VideoDiscriminator(channels, layers)})
        self.regularizers = nn.ModuleDict({name: LeCAM() for name in self.critics})

    def active(self, step: int) -> bool:
        """True if the discriminators are used and trained at a step."""
        return step >= self.start_step

    def weight_at(self, step: int) -> float:
        """Weight of :meth:`generator_loss` at a step: zero before ``start_step``, then a linear ramp."""
        if not self.active(step):
            return 0.0
        elapsed = step - self.start_step
        return self.weight * elapsed / self.ramp_steps if elapsed < self.ramp_steps else self.weight

    def generator_loss(self, fake: Tensor) -> Tensor:
        """Generator loss: negative mean logit, mean over discriminators, a float32 scalar.

        The discriminators are called with detached parameters. The loss thus leaves no gradients on them, and no ``requires_grad`` has
        to be switched back before :meth:`discriminator_loss`.

        Args:
            fake: ``(B, 3, T, H, W)`` reconstructions; gradients flow into them.

        Raises:
            ValueError: If the frames are too small for the discriminators.
        """
        return -torch.stack([_frozen_call(each, fake).float().mean() for each in self.critics.values()]).mean()

    def discriminator_loss(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """Discriminator loss and its parts; updates the running means of LeCAM.

        Args:
            real: ``(B, 3, T, H, W)`` clips.
            fake: Their reconstructions; neither gets a gradient.

        Returns:
            Float32 scalars: ``loss``, its parts ``hinge`` and ``lecam`` (unweighted, mean over discriminators), and the mean logits
            ``real_frame``, ``fake_frame``, ``real_video``, ``fake_video``, detached.

        Raises:
            ValueError: If the frames are too small for the discriminators.
        """
        clips = torch.cat([real.detach(), fake.detach()])  # one pass: logits of a clip do not depend on other clips
        hinges, penalties, means = [], [], {}
        for name, discriminator in self.critics.items():
            real_logits, fake_logits = discriminator(clips).float().split([len(real), len(fake)])
            hinges.append(hinge(real_logits, fake_logits))
            penalties.append(self.regularizers[name](real_logits, fake_logits))
            means |= {f"real_{name}": real_logits.detach().mean(), f"fake_{name}": fake_logits.detach().mean()}
        total, penalty = torch.stack(hinges).mean(), torch.stack(penalties).mean()
        return {"loss": total + self.lecam * penalty, "hinge": total, "lecam": penalty, **means}


def hinge(real: Tensor, fake: Tensor) -> Tensor:
    """Hinge loss of discriminator logits, halved: margins are 1 for real and -1 for fake."""
    return 0.5 * (F.relu(1.0 - real).mean() + F.relu(1.0 + fake).mean())


def _frozen_call(module: nn.Module, video: Tensor) -> Tensor:
    return functional_call(module, {name: value.detach() for name, value in module.named_parameters()}, (video,))


def _mean_over_processes(means: Tensor) -> Tensor:
    """Mean over all processes, without gradient, so that LeCAM's buffers and penalties agree."""
    means = means.detach().clone()
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(means)
        means /= distributed.get_world_size()
    return means
