"""Tasks of the end-to-end tests: good ones, and every kind of bad one."""

import os
import signal
import subprocess
import sys
import time

from tidewheel import ctx, task


@task
def add(a: int, b: int = 1) -> int:
    print(f"adding {a} and {b}")
    return a + b


@task
def fail(text: str):
    raise ValueError(text)


@task
def flaky():
    if ctx.attempt < 3:
        raise OSError(f"attempt {ctx.attempt}")
    return ctx.attempt


@task
def quit_hard(code: int):
    os._exit(code)


@task
def sleep(seconds: float):
    time.sleep(seconds)
    return "slept"


def _family(folder: str):
    """A child, a grandchild in a session of its own, and their numbers in a folder."""
    leave = "import os, sys, time\nif os.fork(): os._exit(0)\nos.setsid()\nif os.fork(): os._exit(0)\n"
    leave += "open(os.path.join(sys.argv[1], str(os.getpid())), 'w').close()\ntime.sleep(600)"
    subprocess.run([sys.executable, "-c", leave, folder], check=True)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    open(os.path.join(folder, str(child.pid)), "w").close()
    open(os.path.join(folder, str(os.getpid())), "w").close()


@task
def family(folder: str):
    """Has a family and never ends; it hears no request to stop."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _family(folder)
    while True:
        try:
            time.sleep(1)
        except BaseException:
            pass


@task
def patient_family(folder: str):
    """Has a family in its first attempt and never ends; later attempts end at once."""
    if ctx.attempt > 1:
        return "later"
    _family(folder)
    while True:
        time.sleep(1)


@task
def hoard(megabytes: int):
    block = bytearray(megabytes << 20)
    # Every page is written to, or it would cost nothing.
    for at in range(0, len(block), 4096):
        block[at] = 1
    return len(block)


@task
def chatter(megabytes: int):
    line = "y" * 1023 + "\n"
    for _ in range(megabytes):
        sys.stdout.write(line * 1024)
    return "done"


@task
def multiply(most: int):
    """Forks until it is stopped, but never more than `most`: the test is for the limit, not for the machine."""
    made = 0
    try:
        while made < most:
            if os.fork() == 0:
                time.sleep(60)
                os._exit(0)
            made += 1
    except OSError as error:
        raise RuntimeError(f"stopped at {made}: {error}") from None
    return made


@task
def good(n: int) -> int:
    time.sleep(0.02)
    return n * n


@task
def work_off(name, wait="1s"):
    """Takes items of a queue until there is none: even ones are done, odd ones are wrong."""
    from tidewheel import queue

    seen = []
    queue(name).add({"n": 4})
    for item in queue(name).take(lease="1m", wait=wait):
        seen.append(item.input["n"])
        if item.input["n"] % 2:
            item.fail("it is odd", kind="business")
        else:
            item.done({"half": item.input["n"] // 2})
    return sorted(seen)
