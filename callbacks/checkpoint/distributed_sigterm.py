"""SIGTERM to any of several processes becomes the end of one step on all of them."""

from __future__ import annotations

import signal
import threading
from typing import Any

from lightning import Trainer


class DistributedSigterm:
    """Takes the place of Lightning's reaction to SIGTERM where there are several processes.

    Lightning's handler talks to the other processes from within the signal, whatever these are doing. A signal to one of two processes was
    seen to hang both. Here a process notes its signal, and all of them ask each other after every step.
    """

    def __init__(self) -> None:
        self.asked = False

    def watch(self, trainer: Trainer) -> None:
        """Note SIGTERM from now on. Lightning puts back what was there when the run ends."""
        if trainer.world_size > 1 and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._note)

    def agree(self, trainer: Trainer) -> None:
        """To be called by all processes after every step; Lightning ends the run after this one if any of them was asked to end."""
        if trainer.world_size > 1 and trainer.strategy.reduce_boolean_decision(self.asked, all=False):
            trainer._signal_connector.received_sigterm = True

    def _note(self, *_: Any) -> None:
        self.asked = True
