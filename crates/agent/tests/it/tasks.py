"""Tasks for the tests of the agent: well-behaved ones and all kinds of others."""

import os
import signal
import subprocess
import sys
import time

from tidewheel import Batch, ctx, task, wf, workflow


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
def work_off(name):
    """Adds an item to a queue and works one off, all through the agent."""
    from tidewheel import queue

    seen = [queue(name).add({"n": 1}).id]
    for item in queue(name).take(lease="10m", limit=1):
        item.done(item.input + 1)
        seen.append(item.input)
    return seen


@task
def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.005)
    return "seen"


@task
def fetch_as(hash, leases):
    """What becomes of a fetch in the name of each lease; None is the own one."""
    said = []
    for lease in leases:
        try:
            with open(ctx.host.fetch(ctx.lease if lease is None else lease, hash)) as file:
                said.append(file.read())
        except Exception as error:
            said.append(f"refused: {error}")
    return said


@task
def run_for(ms):
    time.sleep(ms / 1000)
    return ms


@task
def hoard_shared(megabytes):
    """Memory that no limit on private data sees."""
    import mmap
    block = mmap.mmap(-1, megabytes << 20)
    for at in range(0, megabytes << 20, 4096):
        block[at] = 1
    time.sleep(600)


@task
def bomb():
    while True:
        if os.fork() == 0:
            time.sleep(600)


@task
def burn(seconds):
    """CPU time per second of wall time."""
    begin, cpu = time.monotonic(), time.process_time()
    while time.monotonic() - begin < seconds:
        pass
    return (time.process_time() - cpu) / (time.monotonic() - begin)


@task
def leave(code):
    sys.exit(code)


@task
def kill_self():
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)


@task
def daemon(path):
    """A child of a child in a session of its own, whose parent is gone."""
    child = os.fork()
    if child == 0:
        os.setsid()
        if os.fork() == 0:
            with open(path + ".part", "w") as file:
                file.write(str(os.getpid()))
            os.rename(path + ".part", path)
            time.sleep(600)
        os._exit(0)
    os.waitpid(child, 0)
    return os.getpid()


@task
def close_output():
    os.close(1)
    os.close(2)
    return os.getpid()


@task
def close_all():
    os.closerange(0, 256)


@task
def garble(how):
    """Speaks to the agent past the package."""
    from tidewheel import handle
    link = handle.process_backend.link
    frame = {"json": b"\0\0\0\x0b\0{\"t\": oops}", "length": b"\xff\xff\xff\xff\0", "codec": b"\0\0\0\x02\x09x"}[how]
    link.send(frame)
    link.flush()
    time.sleep(600)


@task
def who(path):
    try:
        seen = open(path).read()
    except OSError as error:
        seen = type(error).__name__
    return [os.getuid(), os.getgid(), os.getgroups(), seen]


@task
def fetch_size(hash: str) -> int:
    return os.path.getsize(ctx.fetch(hash, "fetched.bin"))


@workflow
def waits(times: int):
    return [wf.signal("go") for _ in range(times)]
