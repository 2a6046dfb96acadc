"""Runs functions in a helper process, which can be stopped where a thread cannot: inside a decoder that hangs, waits or crashes.

Files from elsewhere bring decoders to all of this. Those are written in C, where Python can neither interrupt nor catch. The helper is
forked once for every thread that asks and lives on; a call costs a fraction of a millisecond. Without ``os.fork`` nothing is guarded.
"""

from __future__ import annotations

import faulthandler
import gc
import math
import mmap
import os
import select
import signal
import threading
import traceback
import warnings
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, NoReturn
from weakref import WeakSet

import torch
from torch import Tensor

# Seconds by which the helper may miss its own alarm. One that waits inside the kernel, for a dead network disc, does not hear it.
GRACE = 2.0

_local = threading.local()
_shared: _Shared | None = None
_helpers: WeakSet[_Helper] = WeakSet()
_forking = threading.Lock()


class Stopped(Exception):
    """A function did not come back; the message says why."""


def within(seconds: float, function: Callable[..., Any], *arguments: Any) -> Any:
    """What ``function(*arguments)`` returns or raises, unless it takes too long or brings its process down.

    Args:
        seconds: Time that the function has.
        function: One that pickles: found by its name.
        arguments: Whatever pickles.

    Returns:
        What the function returns, if that pickles; a uint8 tensor comes without a detour, through shared memory, and best one by ``empty``.

    Raises:
        Stopped: If the function did not come back. The next call gets a new helper.
    """
    if not hasattr(os, "fork"):
        return function(*arguments)
    helper: _Helper | None = getattr(_local, "helper", None)
    if helper is None or helper.dead:
        helper = _local.helper = _Helper()
    return helper.call(seconds, function, arguments)


def empty(*shape: int) -> Tensor:
    """A uint8 tensor with anything in it; in a helper it lies where the owner looks for what is returned, so it is copied only once."""
    size = math.prod(shape)
    if _shared is None or _shared.given or size == 0:
        return torch.empty(shape, dtype=torch.uint8)
    return _shared.give(size).view(shape)


class _Helper:
    """A process that serves one thread of the process that made it."""

    def __init__(self) -> None:
        self.dead, self._owner = False, os.getpid()
        self._descriptor = os.memfd_create("tensor")
        self._shared = _Shared(self._descriptor)
        # A helper of another thread must not get hold of this one's end, or nobody would notice when it dies.
        with _forking, warnings.catch_warnings():
            # Python warns of locks that other threads may hold now, and for ever in the helper. It asks for none that they use.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._connection, theirs = Pipe()
            self._process = os.fork()
            if self._process == 0:
                self._connection.close()
                _serve(theirs, self._shared)
            theirs.close()
            # That of the connection makes a new one of these for every question.
            self._waiting = select.poll()
            self._waiting.register(self._connection, select.POLLIN)
            _helpers.add(self)

    def call(self, seconds: float, function: Callable[..., Any], arguments: tuple) -> Any:
        try:
            self._connection.send((seconds, function, arguments))
            if not self._waiting.poll(1000 * (seconds + GRACE)):
                raise Stopped(_reason(signal.SIGALRM, seconds))
            kind, value = self._connection.recv()
        except (EOFError, ConnectionError):
            status = self._end()
            raise Stopped(_reason(os.WTERMSIG(status), seconds)) from None
        except BaseException:
            # An answer that comes too late must not be taken for that to the next call.
            self._end(os.WNOHANG)
            raise
        if kind == "error":
            raise value
        return self._shared.read(value) if kind == "tensor" else value

    def leave(self) -> None:
        """Forgets the process without a word to it."""
        self.dead = True
        _helpers.discard(self)
        self._connection.close()
        os.close(self._descriptor)

    def _end(self, waiting: int = 0) -> int:
        """Kills the process if it is still there; returns what it died of."""
        self.leave()
        os.kill(self._process, signal.SIGKILL)
        return os.waitpid(self._process, waiting)[1]

    def __del__(self) -> None:
        # A forked process deletes what belonged to the other threads before it is asked to leave them.
        if not self.dead and self._owner == os.getpid():
            self._end()


def _leave_all() -> None:
    """In a process forked from this one: whose helpers they are must be the only one to hold their connections."""
    for helper in list(_helpers):
        helper.leave()


if hasattr(os, "fork"):
    os.register_at_fork(after_in_child=_leave_all)


class _Shared:
    """The memory of a helper and its owner, as one of them sees it."""

    def __init__(self, descriptor: int) -> None:
        self.given, self._descriptor, self._bytes = False, descriptor, torch.empty(0, dtype=torch.uint8)

    def give(self, size: int) -> Tensor:
        """``(size,)`` uint8, to one asker per call, as there is one place only."""
        self.given = True
        return self._first(size)

    def write(self, value: Tensor) -> tuple[int, ...]:
        """Puts a tensor there, if it is not there yet; its shape."""
        if not value.is_contiguous():
            # It may lie there already, in another order.
            value = value.clone(memory_format=torch.contiguous_format)
        place = self._first(value.numel())
        if place.data_ptr() != value.data_ptr():
            place.copy_(value.view(-1))
        return tuple(value.shape)

    def read(self, shape: tuple[int, ...]) -> Tensor:
        """What was written."""
        return self._first(math.prod(shape)).view(shape).clone()

    def _first(self, size: int) -> Tensor:
        if len(self._bytes) < size:
            if os.fstat(self._descriptor).st_size < size:
                os.ftruncate(self._descriptor, size)
            self._bytes = torch.frombuffer(mmap.mmap(self._descriptor, size), dtype=torch.uint8)
        return self._bytes[:size]


def _serve(connection: Connection, shared: _Shared) -> NoReturn:
    """The life of a helper, until its owner goes."""
    global _forking, _shared
    try:
        _forking, _shared = threading.Lock(), shared
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
            shared.given = False
            answer = _answer(function, arguments, shared)
            signal.setitimer(signal.ITIMER_REAL, 0)
            connection.send(answer)
    finally:
        os._exit(0)


def _answer(function: Callable[..., Any], arguments: tuple, shared: _Shared) -> tuple[str, Any]:
    try:
        value = function(*arguments)
    except Exception as error:
        error.add_note(f"in a helper process:\n{traceback.format_exc()}")
        return "error", error
    return ("tensor", shared.write(value)) if isinstance(value, Tensor) else ("value", value)


def _reason(number: int, seconds: float) -> str:
    if number == signal.SIGALRM:
        return f"reading it takes longer than {seconds:g} s"
    if number == signal.SIGKILL:
        return "the process that read it was killed, maybe for lack of memory"
    return f"it crashes its decoder ({signal.Signals(number).name if number else 'exit'})"
