"""One small training through all stages, shared by every test that needs a trained checkpoint."""

import fcntl
from pathlib import Path

from toy_runs import CONFIGS, checkpoint, run


class StageRuns:
    """Runs of the four stages, each made at its first use. Test processes that share ``folder`` share the runs.

    Every property is the folder of a run. Tests only read it; one that continues or changes a run works on a copy.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)

    @property
    def image_tokenizer(self) -> Path:
        options = ("-c", CONFIGS / "stage/1_images.yaml", "--data.batch_size", 4, "--trainer.max_steps", 2)
        return self._made("image_tokenizer", "tokenizer", *options, "--trainer.val_check_interval", 2)

    @property
    def video_tokenizer(self) -> Path:
        return self._made("video_tokenizer", "tokenizer", "--init_from", checkpoint(self.image_tokenizer))

    @property
    def short_clips(self) -> Path:
        return self._made("short_clips", "videoar", "--init_from", checkpoint(self.video_tokenizer))

    @property
    def long_clips(self) -> Path:
        return self._made("long_clips", "videoar", "--init_from", checkpoint(self.short_clips), "--data.clip.frames", 9)

    def _made(self, name: str, task: str, *options: object) -> Path:
        root, done = self.folder / name, self.folder / f"{name}.done"
        with (self.folder / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                run("fit", task, root, *options)
                done.touch()
        return root
