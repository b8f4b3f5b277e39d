"""Whether this process has children, and which of them live. The question comes after every task, so the usual answer, none,
costs one system call."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Set

_CAN_ASK = hasattr(os, "waitid") and os.path.isdir("/proc/self/task")


def has_children() -> bool:
    """Any at all, zombies too. They stay as they are for whoever waits for them."""
    if not _CAN_ASK:
        return False
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def living_children() -> "Set[int]":
    """Process ids of direct children that are no zombies."""
    living: "Set[int]" = set()
    for thread in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{thread}/children", "rb") as file:
                pids = [int(pid) for pid in file.read().split()]
        except OSError:  # the thread has ended; or a kernel without this file
            continue
        living.update(pid for pid in pids if _lives(pid))
    return living


def _lives(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name may hold any character: the state is the first field after its last bracket.
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        return False
