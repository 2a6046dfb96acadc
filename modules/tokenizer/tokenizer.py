"""Video to bits and back: encoder, multi-scale residual binary spherical quantiser, decoder (paper 4.1)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, Self

import torch
from einops import rearrange
from torch import Tensor, nn

from modules.geometry import Clip, Layout, Pyramid
from modules.tokenizer import bsq
from modules.tokenizer.architecture import Architecture
from modules.tokenizer.decoder import Decoder
from modules.tokenizer.encoder import Encoder
from modules.tokenizer.infinity import read_infinity, read_settings
from modules.tokenizer.inflation import can_inflate, inflate_kernel
from modules.tokenizer.pyramid import down, walk


@dataclass(frozen=True)
class Quantized:
    """What quantising a latent gives.

    Attributes:
        latent: ``(B, d, t, h, w)`` sum of all scales' codes, the decoder's input.
        bits: For every scale ``(B, t, h_k, w_k, d)`` bool.
        commitment: Mean over scales of the commitment loss.
        entropy: Mean over scales of the entropy penalty.
    """

    latent: Tensor
    bits: list[Tensor]
    commitment: Tensor
    entropy: Tensor


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
        self.encoder = Encoder(self.shape)
        self.decoder = Decoder(self.shape)
        self._initialise()

    @classmethod
    def from_infinity(cls, path: str | Path) -> Self:
        """A tokenizer that Infinity published, its architecture read from the shapes in the file.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is no such file, or a tensor is missing or has another shape; the first one is named.
        """
        tensors = read_infinity(path)
        tokenizer = cls(**read_settings(tensors))
        for name, own in tokenizer.state_dict().items():
            if name not in tensors:
                raise ValueError(f"{path}: {name} is missing")
            if tensors[name].shape != own.shape:
                raise ValueError(f"{path}: {name} is {tuple(tensors[name].shape)}, expected {tuple(own.shape)}")
        tokenizer.load_state_dict({name: tensors[name] for name in tokenizer.state_dict()})
        return tokenizer

    def inflate(self, temporal_factor: int = 4, temporal_init: Literal["zeros", "random"] = "zeros") -> VideoTokenizer:
        """A video tokenizer that starts from this image tokenizer (paper 4.1).

        Args:
            temporal_factor: Video frames per latent frame, at least 2.
            temporal_init: What the temporal slices before the last one hold. With "zeros" the encoder equals this one on every
                ``temporal_factor``-th frame and the decoder repeats latent frames; the paper says "random".

        Raises:
            ValueError: If this is a video tokenizer already.
        """
        if self.shape.temporal_factor != 1 or temporal_factor < 2:
            raise ValueError(f"inflation goes from 1 to 2 or more frames per latent, got {self.shape.temporal_factor} to {temporal_factor}")
        video = VideoTokenizer(**asdict(replace(self.shape, temporal_factor=temporal_factor)))
        state = video.state_dict()
        for name, value in self.state_dict().items():
            if can_inflate(value, state[name]):
                earlier = state[name][:, :, :-1]
                value = inflate_kernel(value, torch.zeros_like(earlier) if temporal_init == "zeros" else earlier)
            state[name] = value
        video.load_state_dict(state)
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
        self.layout(Clip(*video.shape[2:]))
        return self.encoder(video.contiguous(memory_format=torch.channels_last_3d))

    @torch.no_grad()
    def encode_for_tokens(self, video: Tensor) -> Tensor:
        """:meth:`encode` in float32 whatever autocast says, without gradients: half precision would change bits."""
        with torch.autocast(video.device.type, enabled=False):
            return self.encode(video.float())

    def decode(self, latent: Tensor) -> Tensor:
        """``(B, d, t, h, w)`` to video ``(B, 3, 1+(t-1)*tau, h*f, w*f)``, about [-1, 1], not clamped."""
        return self.decoder(latent.contiguous(memory_format=torch.channels_last_3d))

    def quantize(self, latent: Tensor) -> Quantized:
        """Continuous latent ``(B, d, t, h, w)`` to bits, every latent frame by itself, in float32, with straight-through gradients."""
        frames = rearrange(latent.float(), "b d t h w -> (b t) d h w")
        pyramid = Pyramid.of(*frames.shape[-2:])
        bits, commitments, entropies = [], [], []

        def choose(scale: int, context: Tensor, partial: Tensor) -> Tensor:
            sphere, codes = bsq.straight_through(down(frames - partial, pyramid.sizes[scale]))
            bits.append(bsq.to_bits(sphere))
            commitments.append(bsq.commitment(sphere, codes))
            entropies.append(bsq.entropy_penalty(sphere))
            return codes

        total = walk(pyramid, choose, torch.zeros_like(frames))
        return Quantized(
            latent=rearrange(total, "(b t) d h w -> b d t h w", b=len(latent)),
            bits=[rearrange(scale, "(b t) d h w -> b t h w d", b=len(latent)) for scale in bits],
            commitment=torch.stack(commitments).mean(),
            entropy=torch.stack(entropies).mean(),
        )

    def dequantize(self, bits: list[Tensor]) -> Tensor:
        """Bits ``(B, t, h_k, w_k, d)`` of every scale to the latent ``(B, d, t, h, w)``."""
        batch, _, height, width, _ = bits[-1].shape
        codes = [bsq.to_codes(rearrange(scale, "b t h w d -> (b t) d h w")) for scale in bits]
        total = walk(Pyramid.of(height, width), lambda scale, context, partial: codes[scale], torch.zeros_like(codes[-1]))
        return rearrange(total, "(b t) d h w -> b d t h w", b=batch)

    def forward(self, video: Tensor) -> Reconstruction:
        """Video through the bits and back."""
        latent = self.encode(video)
        quantized = self.quantize(latent)
        return Reconstruction(self.decode(quantized.latent), latent, quantized)
