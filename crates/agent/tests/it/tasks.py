"""Tasks for the tests of the agent: well-behaved ones and all kinds of others."""

import os
import signal
import subprocess
import sys
import time

from tidewheel import Batch, ctx, task


#: Another one each time this module is imported.
IMPORT = os.urandom(8).hex()


@task
def where():
    """The process this runs in, and the import of this module it belongs to."""
    return [os.getpid(), IMPORT]


@task
def add(a, b=1):
    return a + b


@task
def noop():
    return None


@task
def big(n):
    return "x" * n


@task
def fail():
    raise ValueError("no luck")


@task
def strange():
    return object()


@task
def quit_hard():
    os._exit(3)


@task
def spin():
    while True:
        pass


@task
def stubborn():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        try:
            time.sleep(1)
        except BaseException:
            pass


@task
def chatter(megabytes):
    line = "y" * 1023 + "\n"
    for _ in range(megabytes):
        sys.stdout.write(line * 1024)
    return "done"


@task
def say(what):
    print(what)
    ctx.log.warning("logged " + what)
    return what


@task
def fork(path):
    """Leaves a child and a grandchild that left the session behind, and never ends."""
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    leave = "import os, sys, time\nif os.fork(): os._exit(0)\nos.setsid()\nif os.fork(): os._exit(0)\n"
    leave += "open(sys.argv[1], 'w').write(str(os.getpid()))\ntime.sleep(600)"
    subprocess.run([sys.executable, "-c", leave, path], check=True)
    if os.fork() == 0:
        time.sleep(600)
    while True:
        time.sleep(1)


@task
def hoard(megabytes):
    block = bytearray(megabytes << 20)
    return len(block)


@task
def report():
    with open("report.csv", "w") as file:
        file.write("a,b\n1,2\n")
    ctx.artifact("report.csv", "report.csv")
    return "stored"


@task
def look():
    """What a task can see of the host."""
    return {"tmp": sorted(os.listdir("/tmp")), "pid": os.getpid(), "env": sorted(os.environ),
            "root": os.path.exists("/root/.ssh") or os.path.exists("/home"), "secret": os.environ.get("TIDEWHEEL_TEST_SECRET")}


@task(batch=Batch(10, "1s"))
def squares(items: "list[int]"):
    return [ValueError("odd one out") if item == 13 else item * item for item in items]


@task
def fan_out():
    """Submits further tasks and waits for them, all through the agent."""
    done, failed, running = add.enqueue_many([{"a": 1}, {"a": 2}, {"a": 3}])
    seen = {"id": done.id, "result": done.result(timeout=10), "state": failed.status()}
    try:
        failed.result(timeout=10)
    except Exception as error:
        seen["error"] = f"{type(error).__name__}: {error}"
    try:
        running.result(timeout=0.2)
    except Exception as error:
        seen["wait"] = type(error).__name__
    running.cancel("enough")
    return seen


@task
def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.005)
    return "seen"


@task
def run_for(ms):
    time.sleep(ms / 1000)
    return ms
