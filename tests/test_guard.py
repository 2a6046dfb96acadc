"""Laws of the helper process: what a function gives comes back, and whatever it does to its process does nothing to ours."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from datamodules.decoding import subprocess_guard
from datamodules.decoding.reader import UnreadableVideo, read_clip
from datamodules.decoding.subprocess_guard import Stopped, within
from modules.geometry import Clip


def hang() -> None:
    """Sleep in C and keep Python's lock: no thread and no handler of a signal can end this."""
    ctypes.PyDLL(None).sleep(100)


def crash() -> None:
    ctypes.string_at(0)


def grey(size: int) -> torch.Tensor:
    return torch.full((3, 2, size, size), size, dtype=torch.uint8)


def nap(seconds: float, value: int) -> int:
    time.sleep(seconds)
    return value


def test_values_and_tensors_of_any_size_come_back() -> None:
    assert within(10, divmod, 7, 2) == (3, 1)
    for size in (1, 200, 5, 64):
        assert within(10, grey, size).equal(grey(size))
    first, second = within(10, grey, 3), within(10, grey, 2)
    assert first.equal(grey(3)) and second.equal(grey(2))


def two_tensors(size: int) -> torch.Tensor:
    first, second = subprocess_guard.empty(3, size).fill_(1), subprocess_guard.empty(3, size).fill_(2)
    return second if size % 2 else first


def part_of_a_tensor(size: int) -> torch.Tensor:
    return subprocess_guard.empty(size, size).copy_(torch.arange(size)).T


def test_tensors_made_in_shared_memory_come_back_and_stay_as_they_are() -> None:
    made = [within(10, two_tensors, size) for size in (4, 5, 400, 7)]
    for size, tensor in zip((4, 5, 400, 7), made, strict=True):
        assert tensor.equal(torch.full((3, size), 1 + size % 2, dtype=torch.uint8))
    assert within(10, part_of_a_tensor, 9).equal(torch.arange(9, dtype=torch.uint8)[:, None].expand(9, 9))


def test_errors_come_back_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(UnreadableVideo, match="nothing.mp4: there is no such file") as caught:
        within(10, read_clip, tmp_path / "nothing.mp4", Clip(1, 8, 8))
    assert "read_clip" in caught.value.__notes__[0]
    with pytest.raises(ZeroDivisionError):
        within(10, divmod, 1, 0)


@pytest.mark.parametrize(("function", "reason"), [(hang, "takes longer than 0.3 s"), (crash, r"crashes its decoder \(SIGSEGV\)")])
def test_a_function_that_never_comes_back_is_stopped(function, reason) -> None:
    before = within(10, os.getpid)
    with pytest.raises(Stopped, match=reason):
        within(0.3, function)
    assert within(10, os.getpid) not in (before, os.getpid())


def test_a_helper_that_is_killed_is_replaced() -> None:
    os.kill(within(10, os.getpid), signal.SIGKILL)
    with pytest.raises(Stopped, match="was killed"):
        within(10, os.getpid)
    assert within(10, divmod, 7, 2) == (3, 1)


def test_the_time_is_that_of_one_call() -> None:
    assert [within(0.4, nap, 0.25, number) for number in range(3)] == [0, 1, 2]


def test_an_answer_that_nobody_waited_for_is_not_given_to_the_next_call() -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    with pytest.raises(KeyboardInterrupt):
        within(10, nap, 0.3, 1)
    signal.signal(signal.SIGALRM, before)
    assert within(10, nap, 0.0, 2) == 2


def test_threads_and_forked_processes_have_helpers_of_their_own() -> None:
    helpers = [within(10, os.getpid)]
    thread = threading.Thread(target=lambda: helpers.append(within(10, os.getpid)))
    thread.start()
    thread.join()
    child = os.fork()
    if child == 0:
        os._exit(within(10, os.getpid) in helpers)
    assert os.waitpid(child, 0)[1] == 0
    assert len({*helpers, os.getpid()}) == 3 and within(10, os.getpid) == helpers[0]
    assert not Path(f"/proc/{helpers[1]}").exists()


def test_no_descriptors_and_no_processes_pile_up() -> None:
    def count() -> tuple[int, int]:
        children = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()
        return len(os.listdir("/proc/self/fd")), len(children)

    within(10, grey, 100)
    before = count()
    for _ in range(5):
        with pytest.raises(Stopped):
            within(10, crash)
        within(10, grey, 100)
    assert count() == before


# Loads the one file, as its package would bring Lightning along, which takes seconds.
OWNER = """
import ctypes, importlib.util, os, sys
spec = importlib.util.spec_from_file_location("guard", sys.argv[1])
guard = importlib.util.module_from_spec(spec)
spec.loader.exec_module(guard)
def hang():
    ctypes.PyDLL(None).sleep(100)
print(guard.within(10, os.getpid), flush=True)
if sys.argv[2] == "hang":
    guard.within(1.5, hang)
sys.stdin.read()
"""


@pytest.mark.parametrize("state", ["idle", "hang"])
def test_no_helper_outlives_an_owner_that_is_killed(state: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, subprocess_guard.__file__, state], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        helper = int(owner.stdout.readline())
        owner.kill()
    for _ in range(600):
        if not Path(f"/proc/{helper}").exists():
            return
        time.sleep(0.1)
    pytest.fail("the helper is still there")
