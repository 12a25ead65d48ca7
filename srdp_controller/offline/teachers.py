"""``--teacher``: where a teacher that this project did not train comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from srdp_controller.engines.bundle import MANIFEST, load_bundle
from srdp_controller.errors import SrdpError
from srdp_controller.offline.recipe import Recipe, base_spec, extended_spec
from srdp_controller.tasks.task import load_object

KINDS = "a bundle, the folder of a LeRobot diffusion checkpoint, or module:function (path/to/file.py:function)"


def find_teacher(name: str, recipe: Recipe) -> dict[str, Any]:
    """``own_teacher`` and ``own_spec`` of a pipeline that distils it; nothing where none is named.

    ``name`` is a bundle's folder, a LeRobot checkpoint's, or a function that gets the recipe's ``PolicySpec`` (with its
    histories) and returns a ``DiffusionTeacher`` that reads and answers in the scales of that spec.

    Raises:
        SrdpError: there is no such thing, it returns something else, or it does not fit the recipe's spec.
    """
    if not name:
        return {}
    folder = Path(name)
    if (folder / MANIFEST).is_file():
        from srdp_controller.offline.bundled_teacher import read_teacher

        bundle = load_bundle(folder)
        return {"own_teacher": read_teacher(bundle, recipe.teacher), "own_spec": bundle.spec}
    if (folder / "config.json").is_file():
        from srdp_controller.offline.lerobot_policy import read_lerobot

        teacher, spec = read_lerobot(folder, base_spec(recipe), recipe.observation)
        return {"own_teacher": teacher, "own_spec": spec}
    if folder.is_dir() or ":" not in name:
        found = f"has neither {MANIFEST} nor config.json" if folder.is_dir() else "no such folder"
        raise SrdpError(f"--teacher {name}: {found}; expected {KINDS}")
    from srdp_controller.policy.denoiser import DiffusionTeacher

    spec = extended_spec(recipe)
    try:
        made = load_object(name, "--teacher")(spec)
    except ValueError as error:  # of policy.adapters: what they cannot adapt
        raise SrdpError(f"--teacher {name}: {error}") from None
    if not isinstance(made, DiffusionTeacher):
        raise SrdpError(
            f"--teacher {name}: returned {type(made).__name__}, expected a DiffusionTeacher; from_diffusers or "
            "AdaptedTeacher of srdp_controller.policy.adapters makes one of a network"
        )
    return {"own_teacher": made, "own_spec": spec}
