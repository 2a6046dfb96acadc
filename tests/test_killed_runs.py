"""The law of resuming, with real processes that are really killed."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from killed_runs import Training, write_clips
from toy_runs import assert_same_result, checkpoint


@pytest.mark.slow
def test_a_killed_training_sees_what_one_that_was_never_killed_sees(tmp_path: Path) -> None:
    """Pictures and videos, some broken, in fresh views; the number of processes and of workers changes from launch to launch."""
    manifest, steps = write_clips(tmp_path / "clips"), 14
    whole = Training(tmp_path / "whole", manifest, steps).launch(workers=0, ranks=1)
    assert list(whole) == list(range(steps)) and {len(step) for step in whole.values()} == {4, 8}

    killed = Training(tmp_path / "killed", manifest, steps)
    killed.launch(workers=2, ranks=2, kill_at=5)
    killed.launch(workers=0, ranks=1, kill_at=9)
    killed.launch(workers=2, ranks=2)
    # Nothing is lost: a launch goes on where the last one left a checkpoint, which it does every other step.
    assert [min(launch) % 2 for launch in killed.launches] == [0, 0, 0] and max(killed.launches[-1]) == steps - 1
    assert all(max(earlier) - 2 <= min(later) <= max(earlier) + 1 for earlier, later in pairwise(killed.launches))
    for launch in killed.launches:
        assert launch == {step: whole[step] for step in range(min(launch), max(launch) + 1)}

    reports = [(folder / "broken_files.jsonl").read_text().splitlines() for folder in (tmp_path / "whole", tmp_path / "killed")]
    for report in reports:
        assert sorted(json.loads(line)["path"] for line in report) in (["3.mkv", "7.mkv"], ["7.mkv"])


@pytest.mark.slow
def test_a_killed_training_ends_with_the_weights_of_one_that_was_never_killed(tmp_path: Path) -> None:
    """Killed at any moment of a step, and while it wrote a checkpoint, of which a part stayed."""
    manifest, steps = write_clips(tmp_path / "clips"), 12
    whole, killed = (Training(tmp_path / name, manifest, steps) for name in ("whole", "killed"))
    whole.launch(workers=0, ranks=1)
    for step, delay in ((3, 0.0), (7, 0.2)):
        killed.launch(0, 1, step, delay)
        saved = checkpoint(killed.folder)
        saved.with_name(f".{saved.name}.part").write_bytes(saved.read_bytes()[:1000])
    killed.launch(workers=0, ranks=1)
    assert_same_result(checkpoint(whole.folder), checkpoint(killed.folder))
