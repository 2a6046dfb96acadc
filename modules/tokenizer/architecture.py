"""The numbers that define a tokenizer, and everything that follows from them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Architecture:
    """Shape of encoder and decoder, which mirror each other.

    Args:
        bits: Bits per token, the latent channels ``d``.
        channels: Channels at the finest level.
        multipliers: Channels of every level, as multiples of ``channels``, finest first. Each level but the last halves the picture.
        blocks: Residual blocks per encoder level; the decoder has one more.
        temporal_factor: Video frames per latent frame. 1 is an image tokenizer: every kernel has one temporal slice.
        patch: Pixels folded into channels before the first convolution; 1 is the published network.
        groups: Norm groups; 0 takes the published rule, 32 or else 24.

    Raises:
        ValueError: For a temporal factor that is no power of two or needs more levels than there are.
    """

    bits: int
    channels: int
    multipliers: tuple[int, ...]
    blocks: int
    temporal_factor: int
    patch: int
    groups: int

    def __post_init__(self) -> None:
        for name in ("bits", "channels", "blocks", "temporal_factor", "patch"):
            if getattr(self, name) < 1:
                raise ValueError(f"tokenizer {name} must be at least 1, got {getattr(self, name)}")
        if self.temporal_factor & (self.temporal_factor - 1):
            raise ValueError(f"temporal_factor must be a power of two, got {self.temporal_factor}")
        if self.temporal_halvings > self.levels - 1:
            raise ValueError(
                f"temporal_factor {self.temporal_factor} needs {self.temporal_halvings} down-samplings, "
                f"multipliers {self.multipliers} give {self.levels - 1}"
            )

    @property
    def levels(self) -> int:
        return len(self.multipliers)

    @property
    def widths(self) -> list[int]:
        """Channels of every level, finest first."""
        return [self.channels * multiplier for multiplier in self.multipliers]

    @property
    def temporal_halvings(self) -> int:
        return self.temporal_factor.bit_length() - 1

    @property
    def temporal_kernel(self) -> int:
        return 1 if self.temporal_factor == 1 else 3

    @property
    def spatial_factor(self) -> int:
        """Pixels per latent row and column."""
        return self.patch * 2 ** (self.levels - 1)

    @property
    def pixel_channels(self) -> int:
        return 3 * self.patch**2

    def halves_time(self, level: int) -> bool:
        """Whether the change between ``level`` and ``level + 1`` also halves time: the deepest changes do."""
        return level >= self.levels - 1 - self.temporal_halvings
