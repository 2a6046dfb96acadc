"""How a long video changes on its way, without anything to compare it with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from modules.metrics.evaluation.results import Row

MEASURES = ("sharpness", "motion", "colour")


def drift_curves(video: Tensor, reference: int) -> Tensor:
    """Curves along the frames of videos, in levels of 255.

    ``sharpness``: mean difference of neighbouring pixels. ``motion``: mean change from the frame before, of the first frame 0.
    ``colour``: distance of the mean colour from that of a reference frame.

    Args:
        video: ``(B, 3, T, H, W)`` uint8.
        reference: Number of the reference frame; the last one of a shorter video.

    Returns:
        ``(B, 3, T)`` float64, in the order of ``MEASURES``.
    """
    pixels = video.double()
    across = pixels.diff(dim=4).abs().mean(dim=(1, 3, 4))
    down = pixels.diff(dim=3).abs().mean(dim=(1, 3, 4))
    change = pixels.diff(dim=2).abs().mean(dim=(1, 3, 4))
    motion = torch.cat([torch.zeros_like(across[:, :1]), change], dim=1)
    mean = pixels.mean(dim=(3, 4))
    place = min(reference, video.shape[2] - 1)
    colour = (mean - mean[:, :, place : place + 1]).norm(dim=1)
    return torch.stack([(across + down) / 2, motion, colour], dim=1)


def drift_rows(real: Tensor, made: Sequence[Tensor], clips: int) -> list[Row]:
    """Means of curves ``(3, T)`` over the trained length, what follows it, and the end; beside the mean of real videos.

    Args:
        real: Mean curves of real videos, as long as those of training.
        made: Mean curves of longer videos, of every seed.
        clips: Videos behind a curve.
    """
    trained, length = real.shape[1], made[0].shape[1]
    starts = [start for start in dict.fromkeys((0, trained, length - trained)) if 0 <= start <= length - trained]
    rows = []
    for number, measure in enumerate(MEASURES):
        usual = real[number].mean().item()
        rows.append(Row(f"{measure} (levels), frames 0-{trained - 1}", "real", (usual,), None, clips))
        for start in starts:
            values = tuple(curves[number, start : start + trained].mean().item() for curves in made)
            rows.append(Row(f"{measure} (levels), frames {start}-{start + trained - 1}", "generated", values, usual, clips))
    return rows
