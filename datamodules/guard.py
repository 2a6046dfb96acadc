"""Runs functions in a helper process, which can be stopped where a thread cannot: inside a decoder that hangs, waits or crashes.

Files from elsewhere bring decoders to all of this. Those are written in C, where Python can neither interrupt nor catch. The helper is
forked once for every thread that asks and lives on; a call costs a fraction of a millisecond. Without ``os.fork`` nothing is guarded.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import threading
import traceback
import warnings
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, NoReturn

import torch
from torch import Tensor

# Seconds by which the helper may miss its own alarm. One that waits inside the kernel, for a dead network disc, does not hear it.
GRACE = 2.0

_local = threading.local()


class Stopped(Exception):
    """A function did not come back; the message says why."""


def within(seconds: float, function: Callable[..., Any], *arguments: Any) -> Any:
    """What ``function(*arguments)`` returns or raises, unless it takes too long or brings its process down.

    Args:
        seconds: Time that the function has.
        function: One that pickles: found by its name.
        arguments: Whatever pickles.

    Returns:
        What the function returns, if that pickles; a uint8 tensor comes without a detour, through shared memory.

    Raises:
        Stopped: If the function did not come back. The next call gets a new helper.
    """
    if not hasattr(os, "fork"):
        return function(*arguments)
    helper: _Helper | None = getattr(_local, "helper", None)
    # A process forked from this one must not talk to the helper of its parent.
    if helper is None or helper.dead or helper.owner != os.getpid():
        helper = _local.helper = _Helper()
    return helper.call(seconds, function, arguments)


class _Helper:
    """A process that serves one thread of the process that made it."""

    def __init__(self) -> None:
        self.owner, self.dead = os.getpid(), False
        self._shared = os.memfd_create("tensor")
        self._connection, theirs = Pipe()
        with warnings.catch_warnings():
            # Python warns of locks that other threads may hold now, and for ever in the helper. It asks for none that they use.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._process = os.fork()
        if self._process == 0:
            self._connection.close()
            _serve(theirs, self._shared)
        theirs.close()

    def call(self, seconds: float, function: Callable[..., Any], arguments: tuple) -> Any:
        try:
            self._connection.send((seconds, function, arguments))
            if not self._connection.poll(seconds + GRACE):
                raise Stopped(_reason(signal.SIGALRM, seconds))
            kind, value = self._connection.recv()
        except (EOFError, ConnectionError):
            self.dead = True
            _, status = os.waitpid(self._process, 0)
            raise Stopped(_reason(os.WTERMSIG(status), seconds)) from None
        except BaseException:
            # An answer that comes too late must not be taken for that to the next call.
            self.dead = True
            os.kill(self._process, signal.SIGKILL)
            raise
        if kind == "error":
            raise value
        return _read(self._shared, value) if kind == "tensor" else value

    def __del__(self) -> None:
        self._connection.close()
        os.close(self._shared)
        if self.owner == os.getpid() and not self.dead:
            # It ends by itself when the connection does.
            os.waitpid(self._process, 0)


def _serve(connection: Connection, shared: int) -> NoReturn:
    """The life of a helper, until its owner goes."""
    try:
        # What the owner does about signals and about objects nobody uses any more is not the helper's business.
        gc.freeze()
        faulthandler.disable()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
        torch.set_num_threads(1)
        while True:
            seconds, function, arguments = connection.recv()
            signal.setitimer(signal.ITIMER_REAL, seconds)
            answer = _answer(function, arguments, shared)
            signal.setitimer(signal.ITIMER_REAL, 0)
            connection.send(answer)
    finally:
        os._exit(0)


def _answer(function: Callable[..., Any], arguments: tuple, shared: int) -> tuple[str, Any]:
    try:
        value = function(*arguments)
    except Exception as error:
        error.add_note(f"in a helper process:\n{traceback.format_exc()}")
        return "error", error
    if isinstance(value, Tensor):
        os.pwrite(shared, value.contiguous().numpy(), 0)
        return "tensor", tuple(value.shape)
    return "value", value


def _read(shared: int, shape: tuple[int, ...]) -> Tensor:
    tensor = torch.empty(shape, dtype=torch.uint8)
    os.preadv(shared, [tensor.numpy()], 0)
    return tensor


def _reason(number: int, seconds: float) -> str:
    if number == signal.SIGALRM:
        return f"reading it takes longer than {seconds:g} s"
    if number == signal.SIGKILL:
        return "the process that read it was killed, maybe for lack of memory"
    return f"it crashes its decoder ({signal.Signals(number).name if number else 'exit'})"
