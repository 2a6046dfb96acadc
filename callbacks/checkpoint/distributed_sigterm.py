"""SIGTERM handling of distributed runs: all processes stop after the same step."""

from __future__ import annotations

import signal
import threading
from typing import Any

from lightning import Trainer


class DistributedSigterm:
    """Replaces Lightning's SIGTERM handler in runs of several processes.

    Lightning's handler communicates with the other processes from within the signal handler, whatever they are doing. With two processes,
    a signal to one of them was seen to hang both. Here a process records its signal, and after every step all processes exchange what
    they recorded.
    """

    def __init__(self) -> None:
        self._received = False

    def watch(self, trainer: Trainer) -> None:
        """Record SIGTERM from now on. Lightning restores the previous handler when the run ends."""
        if trainer.world_size > 1 and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._record)

    def agree(self, trainer: Trainer) -> None:
        """Stop the run after this step if any process received SIGTERM. Must be called by all processes after every step."""
        if trainer.world_size > 1 and trainer.strategy.reduce_boolean_decision(self._received, all=False):
            trainer._signal_connector.received_sigterm = True

    def _record(self, *_: Any) -> None:
        self._received = True
