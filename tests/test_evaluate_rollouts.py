"""Rollouts are measured beyond the trained length."""

from pathlib import Path

import pytest
from lightning import LightningModule
from test_evaluate_videos import results, run

from callbacks import EvaluateRollouts


def test_rollouts_are_followed_beyond_the_trained_length(tmp_path: Path) -> None:
    run(tmp_path, EvaluateRollouts(str(tmp_path), frames=13, clips=6, repeats=2))
    rows = {(row["metric"], row["of"]): row for row in results(tmp_path)}
    lines = (tmp_path / "drift.csv").read_text().splitlines()
    assert len(lines) == 14 and lines[0].startswith("frame,generated sharpness") and lines[6].endswith(",,,")
    assert {metric for metric, of in rows if metric.startswith("motion") and of == "generated"} == {
        f"motion (levels), frames {first}-{first + 4}" for first in (0, 5, 8)
    }
    assert len(rows["motion (levels), frames 8-12", "generated"]["values"]) == 2
    assert rows["motion (levels), frames 5-9", "generated"]["real_vs_real"] == rows["motion (levels), frames 0-4", "real"]["value"] > 0


def test_rollouts_that_cannot_be_made_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rollouts of 3 frames are shorter than the clips of 5 frames"):
        run(tmp_path, EvaluateRollouts(str(tmp_path), frames=3))
    with pytest.raises(ValueError, match="must be positive"):
        EvaluateRollouts(str(tmp_path), clips=0)

    class Silent(LightningModule):
        def test_step(self, batch: dict, batch_index: int) -> None:
            pass

    with pytest.raises(ValueError, match="needs a model that generates videos; Silent does not"):
        run(tmp_path, EvaluateRollouts(str(tmp_path)), Silent())
