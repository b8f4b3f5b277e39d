"""Runs one function for `tidewheel exec`: file, function, whether to retry and the input come as one JSON document on stdin.

The answer is one JSON document on the file descriptor that was standard output; whatever the function itself prints goes to
standard error, so that it cannot be taken for the answer.
"""

import importlib
import json
import os
import sys
import traceback

answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(2, 1)
call = json.load(sys.stdin)


def end(**fields):
    answer.write(json.dumps(fields))
    answer.flush()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


path = os.path.abspath(call["file"])
folder, name = os.path.dirname(path), os.path.splitext(os.path.basename(path))[0]
# A module of a package is imported as such, so that its relative imports work.
while os.path.isfile(os.path.join(folder, "__init__.py")):
    folder, parent = os.path.split(folder)
    name = parent + "." + name
sys.path.insert(0, folder)
try:
    from tidewheel import testing
    from tidewheel.authoring import Task
    from tidewheel.encode import dumps
    from tidewheel.errors import InputError
except ImportError as error:
    end(kind="setup", type="ImportError", message="the Python package tidewheel cannot be imported: %s" % error)
try:
    module = importlib.import_module(name)
except Exception as error:
    end(kind="load", type=type(error).__name__, message=str(error), detail=traceback.format_exc())

target = module
for part in call["function"].split("."):
    target = getattr(target, part, None)
if target is None or not (isinstance(target, Task) or callable(target)):
    names = sorted(name for name, value in vars(module).items() if isinstance(value, Task))
    end(kind="missing", names=names)

args, kwargs = call["args"], call["kwargs"]
if isinstance(target, Task) and target.batch is None:
    try:
        target.signature.bind(args, kwargs)
    except TypeError as error:
        end(kind="failed", type="InputError", message=str(error))
try:
    if isinstance(target, Task):
        outcome = testing.run(target, *args, retries=call["retries"], **kwargs)
        for line in outcome.logs:
            fields = " ".join("%s=%s" % pair for pair in line.fields.items())
            print("%-7s %s %s" % (line.level, line.msg, fields), file=sys.stderr)
        if outcome.error is not None:
            raise outcome.error
        attempts, result = len(outcome.attempts), outcome.result
    else:
        attempts, result = 1, target(*args, **kwargs)
    end(kind="ok", attempts=attempts, result=None if result is None else json.loads(dumps(result, "result")))
except InputError as error:
    # It names the place in the input; where the package found that out helps nobody.
    end(kind="failed", type="InputError", message=str(error))
except Exception as error:
    end(kind="failed", type=type(error).__name__, message=str(error), detail=traceback.format_exc())
