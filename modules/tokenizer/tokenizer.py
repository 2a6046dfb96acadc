"""Video to bits and back: encoder, multi-scale residual binary spherical quantiser, decoder (paper 4.1)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import ClassVar, Self, get_args

import torch
from torch import Tensor, nn

from modules.geometry import Clip, Layout, Pyramid
from modules.tokenizer.architecture import Architecture
from modules.tokenizer.decoder import Decoder
from modules.tokenizer.encoder import Encoder
from modules.tokenizer.fingerprint import fingerprint_of
from modules.tokenizer.infinity import read_infinity, read_settings
from modules.tokenizer.inflation import TemporalInit, inflate_state_dict
from modules.tokenizer.quantizer import Quantized, dequantize, quantize
from modules.tokenizer.streaming import DecoderState, EncoderState, decode_chunk, encode_chunk

Size = int | Sequence[int]


@dataclass(frozen=True)
class Reconstruction:
    """A video that went through the tokenizer: ``video`` ``(B, 3, T, H, W)``, not clamped, with its latents before and after bits."""

    video: Tensor
    latent: Tensor
    quantized: Quantized


class VideoTokenizer(nn.Module):
    """Causal 3D multi-scale tokenizer; with ``temporal_factor`` 1 it is an image tokenizer of the same layout.

    Args:
        bits: Bits per token ``d`` (paper: 48).
        channels: Channels at the finest level.
        multipliers: Channels of every level as multiples of ``channels``, finest first; each level but the last halves the picture.
        blocks: Residual blocks per encoder level; the decoder has one more.
        temporal_factor: Video frames per latent frame ``tau`` (paper: 4); a power of two. 1 makes an image tokenizer, which treats
            every frame of a video as a picture.
        patch: Pixels folded into channels before the first convolution. 1 is the published network; 2 and 4 save time on small machines.
        groups: Groups of the group norms; 0 takes the published rule (32, or 24 where 32 does not divide). Small models learn faster
            with fewer: a group of one channel forgets how bright a frame is.
    """

    has_encoder: ClassVar[bool] = True
    """Whether there is an encoder."""

    def __init__(
        self,
        bits: int = 48,
        channels: int = 128,
        multipliers: tuple[int, ...] = (1, 2, 4, 4, 4),
        blocks: int = 2,
        temporal_factor: int = 4,
        patch: int = 1,
        groups: int = 0,
    ) -> None:
        super().__init__()
        self.shape = Architecture(bits, channels, tuple(multipliers), blocks, temporal_factor, patch, groups)
        if self.has_encoder:
            self.encoder = Encoder(self.shape)
        self.decoder = Decoder(self.shape)
        self._initialise()

    @classmethod
    def from_infinity(cls, path: str | Path, bits: int | None = None, temporal_factor: int | None = None) -> Self:
        """A tokenizer that Infinity published, its architecture read from the shapes in the file.

        Args:
            path: ``infinity_vae_d16.pth`` or a sibling; also the same tensors as safetensors.
            bits: Bits per token if other than the file's: the two convolutions that depend on it are newly initialised, and a warning
                says so. No file has the paper's 48.
            temporal_factor: Frames per latent of a file with 3D kernels, whose shapes do not tell; 4 if not given.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is no such file, or a tensor is missing, unknown or has another shape; the first one is named.
        """
        tensors = read_infinity(path)
        settings = read_settings(tensors)
        if temporal_factor is not None:
            if (temporal_factor == 1) != (settings["temporal_factor"] == 1):
                raise ValueError(f"{path} is a tokenizer of {'pictures' if temporal_factor > 1 else 'video'}; see inflate")
            settings["temporal_factor"] = temporal_factor
        tokenizer = cls(**settings) if bits is None else cls(**{**settings, "bits": bits})
        own = tokenizer.state_dict()
        try:
            fitted = inflate_state_dict(own, tensors, reinitialise=True)
            if unknown := [name for name in tensors if name not in own]:
                raise ValueError(f"{unknown[0]} is no part of the published network")
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        if fitted.reinitialised:
            warnings.warn(
                f"{path} has {settings['bits']} bits, not {bits}; newly initialised: {', '.join(fitted.reinitialised)}", stacklevel=2
            )
        tokenizer.load_state_dict(fitted.tensors)
        return tokenizer

    def inflate(self, temporal_factor: int = 4, temporal_init: TemporalInit = "zeros") -> VideoTokenizer:
        """A video tokenizer that starts from this image tokenizer (paper 4.1).

        Args:
            temporal_factor: Video frames per latent frame, at least 2.
            temporal_init: What the temporal slices before the last one hold. With "zeros" the encoder equals this one on every
                ``temporal_factor``-th frame and the decoder repeats latent frames; the paper says "random".

        Raises:
            ValueError: If this is a video tokenizer already, or for another ``temporal_init``.
        """
        if self.shape.temporal_factor != 1 or temporal_factor < 2:
            raise ValueError(f"inflation goes from 1 to 2 or more frames per latent, got {self.shape.temporal_factor} to {temporal_factor}")
        if temporal_init not in get_args(TemporalInit):
            raise ValueError(f"temporal_init must be one of {', '.join(get_args(TemporalInit))}, got {temporal_init!r}")
        video = VideoTokenizer(**asdict(replace(self.shape, temporal_factor=temporal_factor)))
        video.load_state_dict(inflate_state_dict(video.state_dict(), self.state_dict(), temporal_init).tensors)
        return video

    @property
    def bits(self) -> int:
        return self.shape.bits

    def layout(self, clip: Clip) -> Layout:
        """Tokens of a clip.

        Raises:
            ValueError: If the clip's length is not ``1 + tau * n`` or a side is no multiple of the spatial factor.
        """
        frames = self.latent_frames(clip.frames)
        rows, columns = (self._latent_side(name, getattr(clip, name)) for name in ("height", "width"))
        return Layout(Pyramid.of(rows, columns), frames)

    def latent_shape(self, clip: Clip) -> tuple[int, int, int, int]:
        """``(d, t, h, w)`` of a clip's latent; raises like :meth:`layout`."""
        layout = self.layout(clip)
        return self.bits, layout.frames, *layout.pyramid.sizes[-1]

    def clip_of(self, latent: Tensor) -> Clip:
        """What the clips of a latent ``(B, d, t, h, w)`` measure."""
        frames, rows, columns = latent.shape[2:]
        side = self.shape.spatial_factor
        return Clip(1 + (frames - 1) * self.shape.temporal_factor, rows * side, columns * side)

    def fingerprint(self, weights: Mapping[str, Tensor] | None = None) -> dict[str, str]:
        """What tells this tokenizer from all others; see :func:`modules.tokenizer.fingerprint.fingerprint_of`.

        Args:
            weights: The state to look at, if not that of now.
        """
        return fingerprint_of(self.shape, self.state_dict() if weights is None else weights)

    def latent_frames(self, frames: int, what: str = "a clip") -> int:
        """Latent frames of ``frames`` video frames; ``what`` has them, for the error."""
        factor = self.shape.temporal_factor
        if frames < 1 or (frames - 1) % factor:
            below = max(0, (frames - 1) // factor) * factor + 1
            raise ValueError(f"{what} must have 1 + {factor} * n frames, got {frames}; the nearest are {below} and {below + factor}")
        return 1 + (frames - 1) // factor

    def _initialise(self) -> None:
        """Convolutions that keep the signal's size, residual branches that start small.

        Our decision: 15.9 instead of 15.6 dB after 300 steps of a small image tokenizer (one run each).
        """
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv3d):
                gain = 0.2 if name.endswith("conv2.conv") else 1.0
                nn.init.normal_(module.weight, std=gain / module.weight[0].numel() ** 0.5)
                module.bias.data.zero_()  # type: ignore[union-attr]

    def _latent_side(self, name: str, pixels: int) -> int:
        factor = self.shape.spatial_factor
        if pixels % factor:
            raise ValueError(f"a clip's {name} must be a multiple of {factor}, got {pixels}")
        return pixels // factor

    def encode(self, video: Tensor) -> Tensor:
        """``(B, 3, 1+T, H, W)`` in [-1, 1] to the continuous latent ``(B, d, 1+T/tau, H/f, W/f)``.

        Raises:
            ValueError: For a clip length or size that does not divide; nothing is ever cut off silently.
        """
        if video.ndim != 5 or video.shape[1] != 3:
            raise ValueError(f"a video must be (B, 3, T, H, W), a picture being a video of one frame, got {tuple(video.shape)}")
        self.layout(Clip(*video.shape[2:]))
        return self.encoder(video.contiguous(memory_format=torch.channels_last_3d))

    def encode_chunk(self, chunk: Tensor, state: EncoderState | None = None) -> tuple[Tensor, EncoderState]:
        """:meth:`encode` a video piece by piece; the pieces' latents, one after the other, equal that of the whole.

        Args:
            chunk: ``(B, 3, n, H, W)`` in [-1, 1], the next frames, any number of them.
            state: What the chunk before gave; none for the first.

        Returns:
            The latent frames completed by this chunk, ``(B, d, m, H/f, W/f)``, and the state for the next one. ``m`` is 0 as long as
            the frames do not fill a latent frame; ``state.waiting`` holds those.

        Raises:
            ValueError: For no frames, a size that does not divide, or one other than that of the chunk before.
        """
        self._check_frames(chunk)
        self.layout(Clip(1, *chunk.shape[3:]))
        return encode_chunk(self.encoder, chunk, state)

    def decode_chunk(self, chunk: Tensor, state: DecoderState | None = None) -> tuple[Tensor, DecoderState]:
        """:meth:`decode` a latent piece by piece: ``(B, d, n, h, w)`` and the state of the piece before, none for the first.

        Returns:
            The next video frames, ``1 + (n-1)*tau`` for the first piece and ``n*tau`` for every other, and the state for the next one.

        Raises:
            ValueError: For no frames, or a size other than that of the piece before.
        """
        self._check_frames(chunk)
        return decode_chunk(self.decoder, chunk, state)

    @staticmethod
    def _check_frames(chunk: Tensor) -> None:
        if chunk.ndim != 5 or chunk.shape[2] == 0:
            raise ValueError(f"a chunk must be (B, C, n, H, W) with at least one frame, got {tuple(chunk.shape)}")

    @torch.no_grad()
    def encode_for_tokens(self, video: Tensor) -> Tensor:
        """:meth:`encode` in float32 whatever autocast says, without gradients: half precision would change bits."""
        with torch.autocast(video.device.type, enabled=False):
            return self.encode(video.float())

    def decode(self, latent: Tensor) -> Tensor:
        """``(B, d, t, h, w)`` to video ``(B, 3, 1+(t-1)*tau, h*f, w*f)``, about [-1, 1], not clamped."""
        return self.decoder(latent.contiguous(memory_format=torch.channels_last_3d))

    def quantize(self, latent: Tensor, scales: Sequence[Size] | None = None, drop: float = 0.0) -> Quantized:
        """Continuous latent ``(B, d, t, h, w)`` to bits, every latent frame by itself, in float32, with straight-through gradients.

        Args:
            latent: What :meth:`encode` gives.
            scales: ``(h_k, w_k)`` of every scale, or ``(1, h_k, w_k)``, or a side for square ones; coarse to fine, the last one
                ``(h, w)``. The schedule of the grid if not given.
            drop: Probability of leaving out a scale but the last, for training.

        Raises:
            ValueError: If the scales do not grow to ``(h, w)``.
        """
        grid = tuple(latent.shape[-2:])
        pyramid = Pyramid.of(*grid) if scales is None else Pyramid(tuple(_pair(size) for size in scales))
        if pyramid.sizes[-1] != grid:
            raise ValueError(f"the last scale must be the latent's {grid}, got {pyramid.sizes[-1]}")
        return quantize(latent, pyramid, drop)

    def dequantize(self, bits: Sequence[Tensor]) -> Tensor:
        """Bits ``(B, t, h_k, w_k, d)`` of every scale, 0 or 1, to the latent ``(B, d, t, h, w)``."""
        return dequantize(bits)

    def forward(self, video: Tensor, drop: float = 0.0) -> Reconstruction:
        """Video through the bits and back; ``drop`` as in :meth:`quantize`."""
        latent = self.encode(video)
        quantized = self.quantize(latent, drop=drop)
        return Reconstruction(self.decode(quantized.latent), latent, quantized)


def _pair(size: Size) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size[-2:]
    return int(height), int(width)
