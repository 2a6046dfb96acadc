"""Architecture of a tokenizer and the sizes derived from it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Architecture:
    """Hyperparameters of encoder and decoder, which mirror each other.

    Args:
        bits: Bits per token, the latent channels ``d``.
        channels: Channels at the finest level.
        multipliers: Channels of each level as multiples of ``channels``, finest first. Each level but the last halves height and width.
        blocks: Residual blocks per encoder level; the decoder has one more.
        temporal_factor: Video frames per latent frame. 1 is an image tokenizer: all kernels have one temporal slice.
        patch: Side of the pixel patches that are folded into channels before the first convolution; 1 is the published network.
        groups: Groups of the group norms; 0 takes the published rule, 32 or else 24.

    Raises:
        ValueError: If the temporal factor is not a power of two or needs more levels than there are.
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
        if self.temporal_downsamplings > self.levels - 1:
            raise ValueError(
                f"temporal_factor {self.temporal_factor} needs {self.temporal_downsamplings} downsamplings, "
                f"multipliers {self.multipliers} give {self.levels - 1}"
            )

    @property
    def levels(self) -> int:
        return len(self.multipliers)

    @property
    def widths(self) -> list[int]:
        """Channels of each level, finest first."""
        return [self.channels * multiplier for multiplier in self.multipliers]

    @property
    def temporal_downsamplings(self) -> int:
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

    def downsamples_time(self, level: int) -> bool:
        """True if the downsampling from ``level`` to ``level + 1`` also halves time; the deepest ones do."""
        return level >= self.levels - 1 - self.temporal_downsamplings
