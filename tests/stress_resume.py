"""Kills a training again and again, at random steps and moments, and goes on with other numbers of processes and workers every time.

``PYTHONPATH=. python tests/stress_resume.py FOLDER --steps 300 --kills 20`` ends with an error if any step of any launch saw other clips,
or the same clips with other pixels, than the same step of a training that was never killed.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import time
from pathlib import Path

from killed_runs import Step, Training, write_clips

log = logging.getLogger(__name__)


def stress(folder: Path, steps: int, kills: int, seed: int) -> None:
    """Raises ``AssertionError`` at the first step that differs."""
    chance = random.Random(seed)
    manifest = write_clips(folder / "clips")
    started = time.monotonic()
    whole = Training(folder / "whole", manifest, steps).launch(workers=0, ranks=1)
    assert list(whole) == list(range(steps))
    log.info("a training that is never killed: %d steps in %.0f s", steps, time.monotonic() - started)
    training, reached, repeated = Training(folder / "killed", manifest, steps), 0, 0
    for number in range(kills + 1):
        workers, ranks = chance.choice((0, 2)), chance.choice((1, 2))
        last = number == kills or reached >= steps - 3
        kill_at = None if last else min(reached + chance.randint(0, 2 * steps // (kills + 1)), steps - 2)
        launch = training.launch(workers, ranks, kill_at, delay=chance.choice((0.0, chance.random())))
        check(launch, whole)
        repeated += max(0, reached - min(launch, default=reached))
        reached = max(launch, default=reached - 1) + 1
        log.info("launch %d: %d processes x %d workers, steps %s, as expected", number, ranks, workers, span(launch))
        if last:
            break
    assert reached == steps, f"{steps - reached} steps are missing"
    log.info("%d kills, all %d steps as in the training that was never killed; %d steps made twice", number, steps, repeated)


def check(launch: dict[int, Step], whole: dict[int, Step]) -> None:
    for step, clips in launch.items():
        assert clips == whole[step], f"step {step} saw {clips}, and {whole[step]} without kills"


def span(launch: dict[int, Step]) -> str:
    return f"{min(launch)} to {max(launch)}" if launch else "none"


def main() -> None:
    parser = argparse.ArgumentParser(description="Kills a training again and again and compares what it saw.")
    parser.add_argument("folder", type=Path, help="where to work; must not exist")
    parser.add_argument("--steps", type=int, default=300, help="steps of the training")
    parser.add_argument("--kills", type=int, default=20, help="how often to kill it")
    parser.add_argument("--seed", type=int, default=0, help="seed of where, when and with how many processes")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    given.folder.mkdir(parents=True)
    try:
        stress(given.folder, given.steps, given.kills, given.seed)
    except AssertionError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
