"""The package as a whole: its examples run, it imports only the standard library, and quickly."""

import support
import ast
import doctest
import importlib
import inspect
import os
import re
import subprocess
import sys
import types
import unittest

PACKAGE = os.path.join(support.SRC, "tidewheel")


def modules():
    for folder, _, files in os.walk(PACKAGE):
        for file in sorted(files):
            if file.endswith(".py"):
                path = os.path.join(folder, file)
                name = os.path.relpath(path, support.SRC)[:-3].replace(os.sep, ".")
                yield (name[: -len(".__init__")] if name.endswith(".__init__") else name), path


def imports(path):
    """Absolute imports of a module, with the names taken from its own package as ``tidewheel.x``."""
    with open(path) as file:
        tree = ast.parse(file.read())
    inner = os.path.dirname(path) != PACKAGE
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom):
            if node.level == 0:
                yield node.module
            else:
                base = "tidewheel._shim" if inner and node.level == 1 else "tidewheel"
                if node.module:
                    yield f"{base}.{node.module}"
                else:
                    for alias in node.names:
                        yield f"{base}.{alias.name}"


class Package(unittest.TestCase):
    def test_examples_in_docstrings_run(self):
        for name, _ in modules():
            if name.endswith("__main__"):
                continue
            with self.subTest(name):
                result = doctest.testmod(importlib.import_module(name), optionflags=doctest.IGNORE_EXCEPTION_DETAIL)
                self.assertEqual(result.failed, 0)

    def test_examples_in_the_readme_run(self):
        self.run_page(os.path.join(support.ROOT, "README.md"), 4)

    def test_examples_in_the_guide_to_workflows_run(self):
        self.run_page(os.path.join(support.ROOT, "..", "docs", "guide", "python-workflows.md"), 6)

    def run_page(self, path, least):
        with open(path) as file:
            blocks = re.findall(r"^```python( no-run)?\n(.*?)^```", file.read(), re.MULTILINE | re.DOTALL)
        self.assertGreater(len(blocks), least)
        page = types.ModuleType("page")
        sys.modules["page"] = page  # where annotations are looked up
        self.addCleanup(sys.modules.pop, "page")
        for no_run, text in blocks:
            code = compile(text, os.path.basename(path), "exec")
            if not no_run:
                exec(code, page.__dict__)

    @unittest.skipUnless(hasattr(sys, "stdlib_module_names"), "needs Python 3.10")
    def test_only_the_standard_library_is_imported(self):
        for name, path in modules():
            for imported in imports(path):
                self.assertIn(imported.split(".")[0], sys.stdlib_module_names | {"tidewheel", "tomllib"}, f"{name} imports {imported}")

    def test_only_the_client_opens_connections_and_nobody_pickles(self):
        network = {"socket", "http", "urllib", "ssl", "ftplib", "smtplib", "socketserver", "xmlrpc", "requests"}
        for name, path in modules():
            for imported in imports(path):
                top = imported.split(".")[0]
                self.assertNotIn(top, {"pickle", "marshal", "shelve"}, f"{name} imports {imported}")
                if name != "tidewheel.client":
                    self.assertNotIn(top, network, f"{name} imports {imported}")
                if name.startswith("tidewheel._shim"):
                    self.assertNotEqual(imported, "tidewheel.client", f"{name} imports {imported}")

    def test_every_public_name_is_there_and_typed(self):
        import tidewheel

        wanted = {"task", "ctx", "Retry", "Batch", "TaskFailed", "Timeout", "Cancelled", "Conflict", "Overloaded", "NotAllowed", "Secret", "Task", "Handle"}
        self.assertLessEqual(wanted, set(tidewheel.__all__))
        for name in tidewheel.__all__:
            self.assertIsNotNone(getattr(tidewheel, name), name)
        with self.assertRaises(AttributeError):
            tidewheel.nothing
        self.assertTrue(os.path.exists(os.path.join(PACKAGE, "py.typed")))

    def test_the_reference_names_everything_public(self):
        import tidewheel
        from tidewheel import _testrun, client, context, durable, errors, testing

        with open(os.path.join(support.ROOT, "..", "docs", "reference", "python.md")) as file:
            page = file.read()
        words = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", page))))

        def public(owner):
            return {name for name in dir(owner) if not name.startswith("_")}

        self.assertLessEqual(set(tidewheel.__all__), words)
        for kind in (tidewheel.Task, tidewheel.Queue, tidewheel.Handle, tidewheel.Secret, context.Log, client.Client, client.AsyncClient):
            self.assertLessEqual(public(kind), words, kind)
        # What the host of a context uses, and no task.
        self.assertLessEqual(public(context.Context) - {"host", "lease", "facts", "cancel", "cancel_reason", "redact", "stopping"}, words)
        self.assertLessEqual(public(testing.Outcome) | {"run", "mock_run", "replay", "Clock"}, words)
        for kind in (tidewheel.Workflow, durable.Durable, durable.Call):
            self.assertLessEqual(public(kind), words, kind)
        self.assertLessEqual(public(_testrun.RunOutcome()) | set(_testrun.Replayed._fields), words)
        self.assertLessEqual({name for name, value in vars(errors).items() if isinstance(value, type)}, words)
        self.assertLessEqual(tidewheel.options.SUBMIT_OPTIONS, words)
        for function in (_testrun.run_workflow, tidewheel.workflow, tidewheel.task, tidewheel.Retry, tidewheel.Batch, client.Client):
            self.assertLessEqual(set(inspect.signature(function).parameters) - {"function"}, words, function)

    def test_every_function_is_annotated(self):
        for name, path in modules():
            with open(path) as file:
                tree = ast.parse(file.read())
            for node in ast.walk(tree):
                if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.returns is None:
                    self.fail(f"{name}:{node.lineno}: {node.name} says nothing about what it returns")

    def test_the_source_is_python_3_9(self):
        for name, path in modules():
            with open(path) as file, self.subTest(name):
                ast.parse(file.read(), feature_version=(3, 9))

    def test_a_process_with_tasks_alone_loads_nothing_of_workflows(self):
        program = ("import sys; sys.path.insert(0, %r)\n"
                   "import tidewheel._shim.__main__, tidewheel._shim.session, tidewheel._shim.serial, tidewheel._shim.registered as r\n"
                   "from tidewheel import task\nr.everything()\n"
                   "print(' '.join(sorted(sys.modules)))" % support.SRC)
        run = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True, check=True)
        for name in ("flow", "durable", "_driver", "_strand", "_loop", "_journal", "_shim.flows"):
            self.assertNotIn("tidewheel." + name, run.stdout.split())

    def test_importing_brings_nothing_heavy(self):
        # What makes an import slow, and no clock: the modules that only a connection, a loop or a subprocess needs.
        program = ("import sys; sys.path.insert(0, %r); before = set(sys.modules)\n"
                   "from tidewheel import task, ctx, Retry, Batch, TaskFailed, Handle, Secret\n"
                   "print(' '.join(sorted(set(sys.modules) - before)))" % support.SRC)
        run = subprocess.run([sys.executable, "-S", "-c", program], capture_output=True, text=True, check=True)
        self.assertEqual([name for name in run.stdout.split() if name.split(".")[-1] in ("flow", "durable", "_driver", "_strand", "_loop")], [])
        heavy = {"asyncio", "http.client", "ssl", "socket", "subprocess", "email", "urllib.request", "json", "logging", "inspect"}
        self.assertEqual(heavy & set(run.stdout.split()), set())


if __name__ == "__main__":
    unittest.main()
