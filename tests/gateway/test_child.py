"""A supervised child is restarted, ended in order, and never outlives us."""

import asyncio
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ssjf.errors import BackendError
from ssjf.gateway import child
from ssjf.gateway.child import SupervisedChild

# says its process id in a file when it is ready, then waits for a signal
CHILD = """
import os, pathlib, signal, sys
folder = pathlib.Path(sys.argv[1])
if "stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
(folder / "partial").write_text(str(os.getpid()))
(folder / "partial").rename(folder / "pid")
while True:
    signal.pause()
"""

PARENT = """
import asyncio, pathlib, sys
from ssjf.gateway.child import SupervisedChild
folder = pathlib.Path(sys.argv[1])
async def ready():
    return (folder / "pid").exists()
async def main():
    command = [sys.executable, "-c", sys.argv[2], str(folder)]
    await SupervisedChild(command, ready=ready, on_down=lambda: None, on_up=lambda: None).start()
    print("up", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


class Supervised:
    """A child and what its supervisor said of it."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.pid_file = folder / "pid"
        self.events: asyncio.Queue[str] = asyncio.Queue()
        self.child = SupervisedChild(
            [sys.executable, "-c", CHILD, str(folder), *words],
            ready=self.ready,
            on_down=lambda: self.events.put_nowait(f"down, {self.child.state}"),
            on_up=lambda: self.events.put_nowait(f"up, {self.child.state}"),
            on_failure=lambda: self.events.put_nowait("failed"),
        )

    async def ready(self) -> bool:
        return self.pid_file.exists()

    def take_pid(self) -> int:
        pid = int(self.pid_file.read_text())
        self.pid_file.unlink()
        return pid


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_child_that_ends_is_started_again(tmp_path: Path) -> None:
    supervised = Supervised(tmp_path)
    await supervised.child.start()
    try:
        assert supervised.child.state == "ready"
        first = supervised.take_pid()
        os.kill(first, signal.SIGKILL)
        assert await supervised.child.ends_within(10)
        assert await supervised.events.get() == "down, restarting"
        assert await supervised.events.get() == "up, ready"
        assert supervised.take_pid() != first
        assert not await supervised.child.ends_within(0.001)
    finally:
        await supervised.child.stop()


async def test_a_child_that_cannot_be_started_again_is_told_of_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "_FIRST_BACKOFF_S", 0.01)
    monkeypatch.setattr(child, "_LAST_BACKOFF_S", 0.01)
    supervised = Supervised(tmp_path)
    await supervised.child.start()
    try:
        hindrance = tmp_path / "partial"
        hindrance.mkdir()
        os.kill(supervised.take_pid(), signal.SIGKILL)
        for _ in range(2):
            assert await supervised.events.get() == "down, restarting"
            assert await supervised.events.get() == "failed"
        hindrance.rmdir()
        while await supervised.events.get() != "up, ready":
            pass
    finally:
        await supervised.child.stop()


@pytest.mark.parametrize("words", [(), ("stubborn",)])
async def test_a_child_that_is_stopped_is_gone_even_if_it_does_not_want_to(tmp_path: Path, words: list[str]) -> None:
    supervised = Supervised(tmp_path, *words)
    await supervised.child.start()
    pid = supervised.take_pid()
    await supervised.child.stop(grace_s=0.1 if words else 10)
    assert not is_alive(pid)
    assert supervised.child.state == "stopped"
    assert supervised.events.empty()


async def test_a_child_that_never_gets_ready_is_an_error_with_its_exit_code() -> None:
    async def never() -> bool:
        return False

    command = [sys.executable, "-c", "raise SystemExit(7)"]
    supervised = SupervisedChild(command, ready=never, on_down=lambda: None, on_up=lambda: None)
    with pytest.raises(BackendError, match="exit code 7"):
        await supervised.start()
    await supervised.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems rely on the child's own --exit-with-parent")
def test_a_child_does_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(tmp_path), CHILD]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "up\n"
        pid = int((tmp_path / "pid").read_text())
        descriptor = os.pidfd_open(pid)
        parent.kill()
    try:
        # a descriptor of a process is readable when the process has ended
        assert select.select([descriptor], [], [], 10)[0]
    finally:
        os.close(descriptor)
