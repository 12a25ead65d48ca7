"""Errors that an operator can act on: what was wrong, where, and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


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


def all_problems(error: ValidationError) -> list[str]:
    """What pydantic found wrong, each as ``field a.b: message (got X)``."""
    texts = []
    for found in error.errors(include_url=False):
        where = ".".join(str(part) for part in found["loc"])
        got = found.get("input")
        shown = f" (got {got!r})" if not isinstance(got, dict) and found["type"] != "missing" else ""
        texts.append((f"field {where}: " if where else "") + found["msg"].removeprefix("Value error, ") + shown)
    return texts


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
