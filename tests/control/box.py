"""The bundle of the slow box: horizon 8, two actions, 8 sensors' values; its teacher is a small MLP."""

from pathlib import Path

from srdp_controller.engines.bundle import load_bundle
from srdp_controller.spec import PolicySpec

BOX_BUNDLE = Path(__file__).resolve().parents[1] / "data" / "box_bundle"


def box_spec() -> PolicySpec:
    """What the box's policies see and command."""
    return load_bundle(BOX_BUNDLE).spec
