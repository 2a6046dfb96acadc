"""The game between tokenizer and critics: hinge losses, when they start, and what steadies them (paper 4.1)."""

from __future__ import annotations

import torch
import torch.distributed as distributed
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from modules.tokenizer.losses.discriminator import FrameCritic, VideoCritic


class LeCAM(nn.Module):
    """Keeps a critic's logits on either side near where those of the other have been (Tseng et al. 2021).

    The averages are buffers, so a resumed run goes on with them.

    Args:
        decay: What a call leaves of the averages, in [0, 1).

    Raises:
        ValueError: If the decay is outside.
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
        """Take the means of float32 logits of any shape into the averages, then the penalty, a scalar.

        The averages start at the first means seen (our decision: from zero, early logits would be drawn there).
        """
        means = _over_processes(torch.stack([real.mean(), fake.mean()]))
        averages = torch.where(self.started, torch.lerp(means, self.averages, self.decay), means)
        # A step that is skipped as its logits are not finite must not stay in the averages for ever.
        usable = means.isfinite().all()
        self.averages.copy_(torch.where(usable, averages, self.averages))
        self.started.logical_or_(usable)
        average_real, average_fake = averages
        return F.relu(real - average_fake).square().mean() + F.relu(average_real - fake).square().mean()


class AdversarialLoss(nn.Module):
    """Critics of frames and of motion, and the losses of both sides.

    Args:
        weight: Weight of the adversarial term in the tokenizer's loss (0.3 in the recipe of Infinity's released tokenizer).
        start_step: Step from which the critics are trained and heard.
        ramp_steps: Steps over which the weight then rises from zero; 0 for none.
        channels: Width of the critics' first layer.
        layers: Layers of the critics that halve rows and columns.
        lecam: Weight of the regulariser in the critics' loss.

    Raises:
        ValueError: If a weight or a number of steps is negative, or the critics would be empty.
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
                raise ValueError(f"the adversary's {name} must not be negative, got {value}")
        self.weight, self.lecam = weight, lecam
        self.start_step, self.ramp_steps = start_step, ramp_steps
        self.critics = nn.ModuleDict({"frame": FrameCritic(channels, layers), "video": VideoCritic(channels, layers)})
        self.regularizers = nn.ModuleDict({name: LeCAM() for name in self.critics})

    def active(self, step: int) -> bool:
        """Whether the critics are trained at a step."""
        return step >= self.start_step

    def strength(self, step: int) -> float:
        """Weight of :meth:`generator_loss` at a step: nothing before the start, then a linear rise."""
        if not self.active(step):
            return 0.0
        passed = step - self.start_step
        return self.weight * passed / self.ramp_steps if passed < self.ramp_steps else self.weight

    def generator_loss(self, fake: Tensor) -> Tensor:
        """What the tokenizer minimises: the negative mean logit, mean over critics.

        The critics are called with detached copies of their parameters. The loss thus leaves no gradient on them, which the critics'
        own step would otherwise take along, and nothing has to be switched back before :meth:`critic_loss`.

        Args:
            fake: ``(B, 3, T, H, W)`` reconstructions; get a gradient.

        Returns:
            A float32 scalar.

        Raises:
            ValueError: If the frames are too small for the critics.
        """
        return torch.stack([-_frozen_call(critic, fake).float().mean() for critic in self.critics.values()]).mean()

    def critic_loss(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """What the critics minimise; every call also moves LeCAM's averages.

        Args:
            real: ``(B, 3, T, H, W)`` true clips.
            fake: Their reconstructions; neither gets a gradient.

        Returns:
            Float32 scalars: ``loss``, its parts ``hinge`` and ``lecam`` (unweighted, mean over critics), and the mean logits
            ``real_frame``, ``fake_frame``, ``real_video``, ``fake_video``, detached.

        Raises:
            ValueError: If the frames are too small for the critics.
        """
        clips = torch.cat([real.detach(), fake.detach()])  # one pass: no clip changes another's logits
        hinges, penalties, means = [], [], {}
        for name, critic in self.critics.items():
            real_logits, fake_logits = critic(clips).float().split([len(real), len(fake)])
            hinges.append(hinge(real_logits, fake_logits))
            penalties.append(self.regularizers[name](real_logits, fake_logits))
            means |= {f"real_{name}": real_logits.detach().mean(), f"fake_{name}": fake_logits.detach().mean()}
        total, penalty = torch.stack(hinges).mean(), torch.stack(penalties).mean()
        return {"loss": total + self.lecam * penalty, "hinge": total, "lecam": penalty, **means}


def hinge(real: Tensor, fake: Tensor) -> Tensor:
    """Half the mean distance of true logits below 1 and of false ones above -1."""
    return 0.5 * (F.relu(1.0 - real).mean() + F.relu(1.0 + fake).mean())


def _frozen_call(critic: nn.Module, video: Tensor) -> Tensor:
    return functional_call(critic, {name: value.detach() for name, value in critic.named_parameters()}, (video,))


def _over_processes(means: Tensor) -> Tensor:
    """The mean over all processes, so that their averages, and with them their critics' losses, agree; no gradient."""
    means = means.detach().clone()
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(means)
        means /= distributed.get_world_size()
    return means
