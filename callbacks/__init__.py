"""When and how much: schedules over the steps of a run, and what a run leaves behind."""

from callbacks.announce import Announce
from callbacks.compile_blocks import CompileBlocks
from callbacks.error_inheritance import ErrorInheritance
from callbacks.evaluate_rollouts import EvaluateRollouts
from callbacks.evaluate_videos import EvaluateVideos
from callbacks.flip_ratio import FlipRatioSchedule
from callbacks.guard_steps import GuardSteps
from callbacks.last_checkpoint import LastCheckpoint
from callbacks.log_speed import LogSpeed
from callbacks.log_videos import LogVideos
from callbacks.media import contact_sheet, write_preview
from callbacks.mp4 import Mp4Writer, write_mp4
from callbacks.save_run_config import SaveRunConfig
from callbacks.write_latents import WriteLatents
from callbacks.write_reconstructions import WriteReconstructions
from callbacks.write_report import WriteReport
from callbacks.write_videos import WriteVideos

__all__ = [
    "Announce",
    "CompileBlocks",
    "ErrorInheritance",
    "EvaluateRollouts",
    "EvaluateVideos",
    "FlipRatioSchedule",
    "GuardSteps",
    "LastCheckpoint",
    "LogSpeed",
    "LogVideos",
    "Mp4Writer",
    "SaveRunConfig",
    "WriteLatents",
    "WriteReconstructions",
    "WriteReport",
    "WriteVideos",
    "contact_sheet",
    "write_mp4",
    "write_preview",
]
