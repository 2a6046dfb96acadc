"""Drift along long videos, measured without a reference."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from modules.metrics.evaluation.report import Measurement

MEASURES = ("sharpness", "motion", "colour")


def drift_curves(video: Tensor, reference: int) -> Tensor:
    """Return curves along the frames of videos, in levels of 0..255.

    ``sharpness``: mean absolute difference of neighbouring pixels. ``motion``: mean absolute change from the previous frame, 0 for the
    first. ``colour``: distance of the mean colour from that of a reference frame.

    Args:
        video: ``(B, 3, T, H, W)`` uint8.
        reference: Index of the reference frame; in a shorter video the last frame.

    Returns:
        ``(B, 3, T)`` float64, in the order of ``MEASURES``.
    """
    pixels = video.double()
    across = pixels.diff(dim=4).abs().mean(dim=(1, 3, 4))
    down = pixels.diff(dim=3).abs().mean(dim=(1, 3, 4))
    change = pixels.diff(dim=2).abs().mean(dim=(1, 3, 4))
    motion = torch.cat([torch.zeros_like(across[:, :1]), change], dim=1)
    mean = pixels.mean(dim=(3, 4))
    position = min(reference, video.shape[2] - 1)
    colour = (mean - mean[:, :, position : position + 1]).norm(dim=1)
    return torch.stack([(across + down) / 2, motion, colour], dim=1)


def drift_measurements(real: Tensor, made: Sequence[Tensor], clips: int) -> list[Measurement]:
    """Return means of curves ``(3, T)`` over the trained length, the same number of frames after it, and at the end.

    Args:
        real: Mean curves of real videos, of the trained length.
        made: Mean curves of longer videos, for every seed.
        clips: Number of videos that a curve is the mean of.
    """
    trained, length = real.shape[1], made[0].shape[1]
    starts = [start for start in dict.fromkeys((0, trained, length - trained)) if 0 <= start <= length - trained]
    measurements = []
    for number, measure in enumerate(MEASURES):
        real_mean = real[number].mean().item()
        measurements.append(Measurement(f"{measure} (levels), frames 0-{trained - 1}", "real", (real_mean,), None, clips))
        for start in starts:
            values = tuple(curves[number, start : start + trained].mean().item() for curves in made)
            measurements.append(
                Measurement(f"{measure} (levels), frames {start}-{start + trained - 1}", "generated", values, real_mean, clips)
            )
    return measurements
