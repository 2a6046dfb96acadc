"""Video tokenizer: encoder, multi-scale residual binary spherical quantiser, decoder (paper 4.1)."""

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
from modules.tokenizer.float32 import true_float32
from modules.tokenizer.infinity import read_infinity, read_settings
from modules.tokenizer.inflation import TemporalInit, inflate_state_dict
from modules.tokenizer.quantizer import Quantized, dequantize, quantize
from modules.tokenizer.streaming import DecoderState, EncoderState, decode_chunk, encode_chunk

Size = int | Sequence[int]


@dataclass(frozen=True)
class Reconstruction:
    """Reconstructed ``video`` ``(B, 3, T, H, W)``, not clamped, with the continuous and the quantised latent."""

    video: Tensor
    latent: Tensor
    quantized: Quantized


class VideoTokenizer(nn.Module):
    """Causal 3D multi-scale tokenizer; with ``temporal_factor`` 1 an image tokenizer of the same structure.

    Args:
        bits: Bits per token ``d`` (paper: 48).
        channels: Channels at the finest level.
        multipliers: Channels of each level as multiples of ``channels``, finest first; each level but the last halves height and width.
        blocks: Residual blocks per encoder level; the decoder has one more.
        temporal_factor: Video frames per latent frame ``tau`` (paper: 4); a power of two. 1 is an image tokenizer, which processes
            the frames of a video independently.
        patch: Side of the pixel patches folded into channels before the first convolution. 1 is the published network; 2 and 4 save time.
        groups: Groups of the group norms; 0 takes the published rule (32, or 24 if 32 does not divide the channels). Small models learn
            faster with fewer groups: a group of one channel loses the brightness of a frame.
    """

    has_encoder: ClassVar[bool] = True

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
        """Load a tokenizer published by Infinity; its architecture follows from the shapes in the file.

        Args:
            path: ``infinity_vae_d16.pth`` or a sibling, or the same tensors as safetensors.
            bits: Bits per token if different from the file's (no file has the paper's 48): the two convolutions that depend on it are
                newly initialised, with a warning.
            temporal_factor: Video frames per latent frame of a file with 3D kernels, which its shapes do not determine; default 4.

        Raises:
            FileNotFoundError: If the file does not exist.
            ValueError: If it is another kind of file, or a tensor is missing, unknown or has another shape; the first one is named.
        """
        tensors = read_infinity(path)
        settings = read_settings(tensors)
        if temporal_factor is not None:
            if (temporal_factor == 1) != (settings["temporal_factor"] == 1):
                raise ValueError(f"{path} is {'an image' if temporal_factor > 1 else 'a video'} tokenizer; see inflate")
            settings["temporal_factor"] = temporal_factor
        tokenizer = cls(**settings) if bits is None else cls(**{**settings, "bits": bits})
        own = tokenizer.state_dict()
        try:
            matched = inflate_state_dict(own, tensors, reinitialise=True)
            if unknown := [name for name in tensors if name not in own]:
                raise ValueError(f"{unknown[0]} is not part of the published network")
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        if matched.reinitialised:
            warnings.warn(
                f"{path} has {settings['bits']} bits, not {bits}; newly initialised: {', '.join(matched.reinitialised)}", stacklevel=2
            )
        tokenizer.load_state_dict(matched.tensors)
        return tokenizer

    def inflate(self, temporal_factor: int = 4, temporal_init: TemporalInit = "zeros") -> VideoTokenizer:
        """Return a video tokenizer initialised from this image tokenizer (paper 4.1), see :mod:`modules.tokenizer.inflation`.

        Args:
            temporal_factor: Video frames per latent frame, at least 2.
            temporal_init: Initial values of the temporal slices before the last one. With "zeros" the encoder equals this one on every
                ``temporal_factor``-th frame and the decoder repeats latent frames; the paper uses "random".

        Raises:
            ValueError: If this is already a video tokenizer, or ``temporal_init`` is unknown.
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
        """Token layout of a clip.

        Raises:
            ValueError: If the clip's length is not ``1 + tau * n`` or a side is not a multiple of the spatial factor.
        """
        frames = self.latent_frames(clip.frames)
        rows, columns = (self._latent_side(name, getattr(clip, name)) for name in ("height", "width"))
        return Layout(Pyramid.of(rows, columns), frames)

    def latent_shape(self, clip: Clip) -> tuple[int, int, int, int]:
        """Latent shape ``(d, t, h, w)`` of a clip; raises like :meth:`layout`."""
        layout = self.layout(clip)
        return self.bits, layout.frames, *layout.pyramid.sizes[-1]

    def clip_of(self, latent: Tensor) -> Clip:
        """Size of the clips of a latent ``(B, d, t, h, w)``."""
        frames, rows, columns = latent.shape[2:]
        side = self.shape.spatial_factor
        return Clip(1 + (frames - 1) * self.shape.temporal_factor, rows * side, columns * side)

    def fingerprint(self, weights: Mapping[str, Tensor] | None = None) -> dict[str, str]:
        """SHA-256 of encoder and decoder, see :func:`modules.tokenizer.fingerprint.fingerprint_of`.

        Args:
            weights: State dict to use instead of the current one.
        """
        return fingerprint_of(self.shape, self.state_dict() if weights is None else weights)

    def latent_frames(self, frames: int, what: str = "a clip") -> int:
        """Number of latent frames of ``frames`` video frames; ``what`` is the subject of the error message."""
        factor = self.shape.temporal_factor
        if frames < 1 or (frames - 1) % factor:
            below = max(0, (frames - 1) // factor) * factor + 1
            raise ValueError(f"{what} must have 1 + {factor} * n frames, got {frames}; the nearest are {below} and {below + factor}")
        return 1 + (frames - 1) // factor

    def _initialise(self) -> None:
        """Initialise convolutions to preserve the signal's variance and residual branches to small values.

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
        """Encode ``(B, 3, 1+T, H, W)`` in [-1, 1] to the continuous latent ``(B, d, 1+T/tau, H/f, W/f)``.

        Raises:
            ValueError: If length or size are not multiples of the factors; nothing is cropped.
        """
        if video.ndim != 5 or video.shape[1] != 3:
            raise ValueError(f"a video must be (B, 3, T, H, W), an image one frame of video, got {tuple(video.shape)}")
        self.layout(Clip(*video.shape[2:]))
        return self.encoder(video.contiguous(memory_format=torch.channels_last_3d))

    def encode_chunk(self, chunk: Tensor, state: EncoderState | None = None) -> tuple[Tensor, EncoderState]:
        """Encode a video in chunks; the concatenated results equal :meth:`encode` of the whole video.

        Args:
            chunk: ``(B, 3, n, H, W)`` in [-1, 1], the next frames, ``n >= 1``.
            state: State returned with the previous chunk; none for the first.

        Returns:
            The latent frames completed by this chunk, ``(B, d, m, H/f, W/f)``, and the state for the next one. ``m`` is 0 if the frames
            do not complete a latent frame; ``state.waiting`` contains the remaining frames.

        Raises:
            ValueError: If there are no frames, or their size is not a multiple of the factor or differs from the previous chunk.
        """
        self._check_frames(chunk)
        self.layout(Clip(1, *chunk.shape[3:]))
        return encode_chunk(self.encoder, chunk, state)

    def decode_chunk(self, chunk: Tensor, state: DecoderState | None = None) -> tuple[Tensor, DecoderState]:
        """Decode a latent in chunks ``(B, d, n, h, w)``, with the state of the previous chunk, none for the first.

        Returns:
            The next video frames, ``1 + (n-1)*tau`` for the first chunk and ``n*tau`` for all others, and the state for the next one.

        Raises:
            ValueError: If there are no frames, or their size differs from the previous chunk.
        """
        self._check_frames(chunk)
        return decode_chunk(self.decoder, chunk, state)

    @staticmethod
    def _check_frames(chunk: Tensor) -> None:
        if chunk.ndim != 5 or chunk.shape[2] == 0:
            raise ValueError(f"a chunk must be (B, C, n, H, W) with at least one frame, got {tuple(chunk.shape)}")

    @torch.no_grad()
    def encode_for_tokens(self, video: Tensor) -> Tensor:
        """:meth:`encode` in true float32, without autocast, TF32 and gradients: lower precision would change bits."""
        with true_float32(video.device):
            return self.encode(video.float())

    def decode(self, latent: Tensor) -> Tensor:
        """Decode ``(B, d, t, h, w)`` to video ``(B, 3, 1+(t-1)*tau, h*f, w*f)``, about [-1, 1], not clamped."""
        return self.decoder(latent.contiguous(memory_format=torch.channels_last_3d))

    def quantize(self, latent: Tensor, scales: Sequence[Size] | None = None, drop: float = 0.0) -> Quantized:
        """Quantise each frame of a continuous latent to bits, in float32, with straight-through gradients.

        Args:
            latent: ``(B, d, t, h, w)``, the result of :meth:`encode`.
            scales: ``(h_k, w_k)`` of each scale, or ``(1, h_k, w_k)``, or the side of square ones; coarse to fine, the last one
                ``(h, w)``. The default schedule of the latent's size if not given.
            drop: Probability of dropping each scale but the last, for training.

        Raises:
            ValueError: If the scales do not increase to ``(h, w)``.
        """
        grid = tuple(latent.shape[-2:])
        pyramid = Pyramid.of(*grid) if scales is None else Pyramid(tuple(_pair(size) for size in scales))
        if pyramid.sizes[-1] != grid:
            raise ValueError(f"the last scale must be the latent's {grid}, got {pyramid.sizes[-1]}")
        return quantize(latent, pyramid, drop)

    def dequantize(self, bits: Sequence[Tensor]) -> Tensor:
        """Convert bits ``(B, t, h_k, w_k, d)`` of each scale, 0 or 1, to the latent ``(B, d, t, h, w)``."""
        return dequantize(bits)

    def forward(self, video: Tensor, drop: float = 0.0) -> Reconstruction:
        """Encode, quantise and decode; ``drop`` as in :meth:`quantize`."""
        latent = self.encode(video)
        quantized = self.quantize(latent, drop=drop)
        return Reconstruction(self.decode(quantized.latent), latent, quantized)


def _pair(size: Size) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size[-2:]
    return int(height), int(width)
