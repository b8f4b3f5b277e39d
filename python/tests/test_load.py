"""What the shim imports, how it describes it, and what it says when that fails."""

import support
import json
import os
import subprocess
import sys
import tempfile
import unittest

from agent import FIXTURES, Agent, shim_environment
from tidewheel._shim import discover


class Describe(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def write(self, path, text):
        path = os.path.join(self.folder, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write(text)
        return path

    def describe(self, *arguments):
        return subprocess.run(
            [sys.executable, "-m", "tidewheel._shim", "--describe", *(arguments or ("--dir", self.folder))],
            env=shim_environment(TIDEWHEEL_PATH=""), capture_output=True, text=True, timeout=60,
        )

    def names(self):
        out = self.describe()
        self.assertEqual(out.returncode, 0, out.stderr)
        return [entry["fn"] for entry in json.loads(out.stdout)["manifest"]]

    TASK = "from tidewheel import task\n@task\ndef {0}(x: int) -> int:\n    return x\n"

    def test_a_folder_of_modules_and_packages(self):
        self.write("one.py", "print('noise on stdout')\n" + self.TASK.format("a"))
        self.write("pkg/__init__.py", "")
        self.write("pkg/deep/__init__.py", "")
        self.write("pkg/deep/two.py", self.TASK.format("b"))
        self.write("script.py", "raise SystemExit('not ours: it names nothing of the package')\n")
        self.write("test_one.py", "import tidewheel\nraise SystemExit('a test')\n")
        self.write("tests/__init__.py", "import tidewheel\nraise SystemExit('tests')\n")
        self.write("pkg/__main__.py", "import tidewheel\nraise SystemExit('a program')\n")
        self.assertEqual(self.names(), ["one:a", "pkg.deep.two:b"])

    def test_an_entry_says_all_about_its_task(self):
        out = self.describe("--dir", FIXTURES)
        self.assertEqual(out.returncode, 0, out.stderr)
        add = next(entry for entry in json.loads(out.stdout)["manifest"] if entry["name"] == "add")
        self.assertEqual((add["fn"], add["kind"], add["doc"]), ("shop:add", "task", "Adds two numbers."))
        self.assertEqual(add["schema_in"]["required"], ["a"])
        self.assertEqual(add["schema_out"]["type"], "integer")
        self.assertEqual(add["defaults"], {
            "queue": "math", "timeout": {"run": "10m"},
            "retry": {"max_attempts": 4, "delay": "2s", "backoff": "exponential", "factor": 2.0},
        })
        self.assertRegex(add["code_hash"], "^sha256:[0-9a-f]{64}$")

    def test_a_source_folder(self):
        self.write("src/shopping/__init__.py", self.TASK.format("a"))
        self.assertEqual(self.names(), ["shopping:a"])

    def test_named_modules(self):
        self.write("one.py", self.TASK.format("a"))
        self.write("two.py", self.TASK.format("b"))
        self.write("pyproject.toml", '[project]\nname = "x"\n[tool.tidewheel]\nmodules = [\n  "two",  # only this\n]\n')
        self.assertEqual(self.names(), ["two:b"])

    def test_named_modules_without_a_toml_reader(self):
        cases = [
            ("[tool.tidewheel]\nmodules = ['a', \"b.c\"]\n", ["a", "b.c"]),
            ("[tool.other]\nmodules = ['a']\n", None),
            ("[tool.tidewheel]\nname = 'x'\n[tool.y]\nmodules = ['a']", None),
            ("[tool.tidewheel]\nmodules = []", []),
        ]
        for text, wanted in cases:
            self.assertEqual(discover._modules_by_hand(text), wanted)

    def fails(self, *messages, arguments=()):
        out = self.describe(*arguments)
        self.assertEqual(out.returncode, 3, out.stdout)
        self.assertEqual(out.stdout, "")
        for message in messages:
            self.assertIn(message, out.stderr)
        self.assertNotIn("_shim", out.stderr)
        return out.stderr

    def test_what_cannot_be_imported_is_named_with_file_and_line(self):
        path = self.write("bad.py", "import tidewheel\n\nimport no_such_module_here\n")
        self.fails(f"{path}:3: ModuleNotFoundError: No module named 'no_such_module_here'", "import no_such_module_here")

    def test_a_syntax_error(self):
        path = self.write("bad.py", "import tidewheel\ndef (:\n")
        self.fails(f"{path}:2: SyntaxError")

    def test_a_module_that_exits(self):
        path = self.write("bad.py", "import sys, tidewheel\nsys.exit(0)\n")
        self.fails(f"{path}:2: SystemExit")

    def test_two_tasks_of_one_name(self):
        self.write("one.py", self.TASK.format("same"))
        two = self.write("two.py", self.TASK.format("same"))
        self.fails(f"{two}:2: there are two tasks named 'same'", "one.py:2")

    def test_a_type_that_cannot_come_from_json(self):
        path = self.write("one.py", "import socket\nfrom tidewheel import task\n@task\ndef f(s: socket.socket): ...\n")
        self.fails(f"{path}:3: one:f: parameter 's': socket cannot come from JSON")

    def test_a_task_that_no_worker_could_find(self):
        path = self.write("one.py", "from tidewheel import task\ndef make():\n    @task\n    def f(): ...\nmake()\n")
        self.fails(f"{path}:3: task 'f' is not a module-level name")

    def test_nothing_to_serve(self):
        self.fails("no module below", "uses tidewheel")
        self.write("one.py", "import tidewheel\n")
        self.fails("there is no @task or @workflow in one")
        self.fails("there is no folder", arguments=("--dir", self.folder + "/none"))

    def steps(self):
        out = self.describe("--steps", "--dir", self.folder)
        return out, [json.loads(line) for line in out.stdout.splitlines()]

    def test_steps_say_what_is_imported_and_why_it_cannot_be(self):
        self.write("a_one.py", "print('noise')\n" + self.TASK.format("a"))
        out, lines = self.steps()
        self.assertEqual(lines[:2], [{"importing": "a_one"}, {"importing": None}])
        self.assertEqual([entry["fn"] for entry in lines[2]["manifest"]], ["a_one:a"])
        self.assertEqual((len(lines), out.stderr), (3, "noise\n"))
        path = self.write("b_two.py", "import tidewheel\nprint('{}')\nnothing_like_this\n")
        out, lines = self.steps()
        self.assertEqual(lines[:2], [{"importing": "a_one"}, {"importing": "b_two"}])
        self.assertIn(f"{path}:3: NameError", lines[2]["refused"]["message"])
        self.assertIn("nothing_like_this", lines[2]["refused"]["traceback"])
        self.assertEqual((len(lines), out.returncode, out.stderr), (3, 3, "noise\n{}\n"))
        self.write("b_two.py", "import os, tidewheel\nos._exit(0)\n")
        _, lines = self.steps()
        self.assertEqual(lines[-1], {"importing": "b_two"})

    @unittest.skipIf(sys.version_info < (3, 11), "before 3.11 only the one entry is read")
    def test_a_broken_pyproject(self):
        self.write("pyproject.toml", "[tool.tidewheel\n")
        self.fails("pyproject.toml")

    def test_wrong_calls(self):
        for arguments in (["--nonsense"], ["--dir"], []):
            env = shim_environment()
            out = subprocess.run([sys.executable, "-m", "tidewheel._shim", *arguments], env=env, capture_output=True, text=True, timeout=60)
            self.assertEqual(out.returncode, 2)
            self.assertIn("tidewheel._shim: ", out.stderr)


class Load(unittest.TestCase):
    def test_a_module_that_cannot_be_loaded_is_reported(self):
        with Agent("no_such_module_here", hello=False) as agent:
            error = agent.until("load_error")
            self.assertIn("no_such_module_here", error["msg"])
            self.assertIn("ModuleNotFoundError", error["traceback"])
            self.assertEqual(agent.wait(), 3)

    def test_another_protocol_is_refused(self):
        env = shim_environment(TIDEWHEEL_FD="0", TIDEWHEEL_PROTO="2")
        out = subprocess.run([sys.executable, "-m", "tidewheel._shim"], env=env, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
        self.assertEqual(out.returncode, 2)
        self.assertIn("the agent speaks protocol 2, this package 1", out.stderr)

    def test_a_new_process_loads_little_before_its_first_task(self):
        """Half the time of a start went into modules that a plain task does not use."""
        heavy = {"inspect", "typing", "datetime", "decimal", "uuid", "pathlib", "hashlib", "runpy", "dataclasses", "asyncio", "logging",
                 "socket", "subprocess", "traceback", "contextlib", "importlib.util", "importlib.metadata", "tempfile"}
        text = "import sys\nfrom tidewheel import task\n@task\ndef loaded(x: int, y: str = '') -> list:\n    return sorted(sys.modules)\n"
        with tempfile.TemporaryDirectory() as folder:
            with open(os.path.join(folder, "plain.py"), "w") as file:
                file.write(text)
            # What this Python loads by itself (`site` and what it finds) is not ours.
            program = "import sys; print(*sys.modules)"
            bare = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True).stdout.split()
            with Agent("plain", command=("-c", "from tidewheel._shim.__main__ import start; start()"), TIDEWHEEL_PATH=folder) as agent:
                agent.send({"t": "task_start", "lease": "1", "fn": "plain:loaded", "input": {"x": 1}, "ctx": {}})
                loaded = set(agent.done("1")["value"])
        self.assertIn("tidewheel.signature", loaded)
        self.assertEqual(heavy & loaded - set(bare), set())

    def test_the_shim_loads_no_network_and_no_pickle(self):
        program = (
            "import sys; sys.argv = ['x']; sys.path[:0] = [%r]; before = set(sys.modules)\n"
            "from tidewheel._shim import __main__, discover, serial, pool, session, stdio\n"
            "loaded = {'tidewheel.client', 'http.client', 'socket', 'ssl', 'pickle', 'asyncio'} & (set(sys.modules) - before)\n"
            "print(sorted(loaded))" % support.SRC
        )
        out = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True, timeout=60)
        self.assertEqual(out.stdout, "[]\n", out.stderr)


if __name__ == "__main__":
    unittest.main()
