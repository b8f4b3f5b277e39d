"""What a package offers: one entry per task and per workflow."""

from __future__ import annotations

import sys

from .registered import ManifestError, place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Union

    from ..authoring import Task
    from ..flow import Workflow
    from .registered import Offer


def manifest(offer: "Offer") -> "List[Dict[str, Any]]":
    """The entries, with schemas. Raises `ManifestError` for a signature that cannot be described."""
    hashes: "Dict[str, str]" = {}
    return [_entry(item, hashes) for item in offer.values()]


def _entry(task: "Union[Task[Any, Any], Workflow[Any, Any]]", hashes: "Dict[str, str]") -> "Dict[str, Any]":
    try:
        schema_in, schema_out = task.signature.schema_in(), task.signature.schema_out()
    except TypeError as error:
        raise ManifestError(f"{place(task)}: {error}") from None
    module = task.function.__module__
    if module not in hashes:
        hashes[module] = _source_hash(module)
    doc = (task.__doc__ or "").strip().split("\n\n")[0]
    ref = getattr(task, "ref", None)
    if ref is None:
        more: "Dict[str, Any]" = {"kind": "task"}
    else:
        more = {"kind": "workflow", "namespace": task.namespace, "version": task.version, "options": task.options()}  # type: ignore[union-attr]
    return {
        "fn": task.fn,
        "name": task.name,
        **more,
        "doc": " ".join(doc.split()),
        "schema_in": schema_in,
        "schema_out": schema_out,
        "defaults": task.defaults(),
        "code_hash": hashes[module],
    }


def _source_hash(module: str) -> str:
    """Changes with the module's source. The source and not the byte code, which differs between Python versions."""
    from hashlib import sha256

    path = getattr(sys.modules.get(module), "__file__", None)
    try:
        with open(path, "rb") as file:  # type: ignore[arg-type]
            return "sha256:" + sha256(file.read()).hexdigest()
    except (OSError, TypeError):
        return "sha256:" + sha256(module.encode()).hexdigest()
