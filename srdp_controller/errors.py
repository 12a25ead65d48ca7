"""Errors that an operator can act on: what was wrong, where, and what to do."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError


class SrdpError(Exception):
    """Bad input from outside (a file, a parameter, a message); the text names the remedy.

    The command line prints the text alone and exits with status 2.
    """


class BundleError(SrdpError):
    """A bundle is missing, damaged, of another schema version, or does not fit the controller."""


class EngineError(SrdpError):
    """An inference engine cannot be built, or the asked-for provider is not there."""


class SpecError(SrdpError):
    """A policy specification contradicts itself or the robot's topics."""


class DatasetError(SrdpError):
    """An offline dataset is missing, damaged or of the wrong shape."""


class ScenarioError(SrdpError):
    """A scenario file of the simulation is missing or wrong."""


def missing_extra(extra: str, error: ModuleNotFoundError) -> SrdpError:
    """The error of a command that needs packages which are not installed."""
    return SrdpError(f"this command needs {error.name}, which is not installed: pip install 'srdp_controller[{extra}]'")


def all_problems(error: ValidationError, model: type[BaseModel] | None = None) -> list[str]:
    """What pydantic found wrong, each as ``field a.b: message (got X)``; with its ``model`` an unknown field's like."""
    texts = []
    for found in error.errors(include_url=False):
        where = ".".join(str(part) for part in found["loc"])
        got = found.get("input")
        if found["type"] == "extra_forbidden" and model is not None:
            known = _fields(model, found["loc"][:-1])
            near = difflib.get_close_matches(str(found["loc"][-1]), known, 1)
            texts.append(
                f"field {where}: unknown; " + (f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}")
            )
            continue
        shown = f" (got {shortened(got)})" if not isinstance(got, dict) and found["type"] != "missing" else ""
        texts.append((f"field {where}: " if where else "") + found["msg"].removeprefix("Value error, ") + shown)
    return texts


def shortened(value: object, most: int = 80) -> str:
    """A value for a message."""
    text = repr(value)
    return text if len(text) <= most else f"{text[:most]}..."


def _fields(model: Any, path: tuple[Any, ...]) -> list[str]:
    """Names of the fields at a path of models."""
    for part in path:
        field = getattr(model, "model_fields", {}).get(part)
        kind = field.annotation if field is not None else None
        model = next((one for one in (kind, *get_args(kind)) if hasattr(one, "model_fields")), None)
    return list(getattr(model, "model_fields", {}))


def first_problem(error: ValidationError) -> str:
    """The first of ``all_problems``."""
    return all_problems(error)[0]


def cause_of(error: BaseException) -> str:
    """For a reason or a log: an ``SrdpError``'s text alone; any other with its type and where it was raised."""
    if isinstance(error, SrdpError):
        return str(error) or type(error).__name__  # never empty: an empty cause reads as none
    trace, place = error.__traceback__, ""
    while trace is not None:  # by hand: the traceback module would read source files in the control loop
        place = f" ({Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno})"
        trace = trace.tb_next
    return f"{type(error).__name__}: {error}{place}"
