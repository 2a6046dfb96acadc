"""Callbacks: schedules over training steps, evaluation, checkpoints, and files written by a run."""

from callbacks.checkpoint.last_checkpoint import LastCheckpoint
from callbacks.compile_blocks import CompileBlocks
from callbacks.error_inheritance import ErrorInheritance
from callbacks.evaluation.evaluate_rollouts import EvaluateRollouts
from callbacks.evaluation.evaluate_videos import EvaluateVideos
from callbacks.evaluation.write_report import WriteReport
from callbacks.flip_ratio import FlipRatioSchedule
from callbacks.log_speed import LogSpeed
from callbacks.log_videos import LogVideos
from callbacks.records.run_summary import PrintRunSummary
from callbacks.records.save_run_config import SaveRunConfig
from callbacks.skip_nonfinite_steps import SkipNonFiniteSteps
from callbacks.writers.media import contact_sheet, write_preview
from callbacks.writers.mp4 import Mp4Writer, write_mp4
from callbacks.writers.write_latents import WriteLatents
from callbacks.writers.write_reconstructions import WriteReconstructions
from callbacks.writers.write_videos import WriteVideos

__all__ = [
    "CompileBlocks",
    "ErrorInheritance",
    "EvaluateRollouts",
    "EvaluateVideos",
    "FlipRatioSchedule",
    "LastCheckpoint",
    "LogSpeed",
    "LogVideos",
    "Mp4Writer",
    "PrintRunSummary",
    "SaveRunConfig",
    "SkipNonFiniteSteps",
    "WriteLatents",
    "WriteReconstructions",
    "WriteReport",
    "WriteVideos",
    "contact_sheet",
    "write_mp4",
    "write_preview",
]
