"""A bundle's teacher as a network again, so that others can be distilled from it without training it anew."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from srdp_controller.engines.bundle import LoadedBundle
from srdp_controller.engines.onnx_engine import BatchedPolicy
from srdp_controller.errors import SrdpError
from srdp_controller.offline.export.assemble import PARITY_TOLERANCE
from srdp_controller.offline.export.teacher_graph import BIAS, read_process
from srdp_controller.offline.recipe import TeacherRecipe
from srdp_controller.offline.train_teacher import build_teacher
from srdp_controller.policy.samplers import CLIP
from srdp_controller.policy.teacher import SrdpTeacher

PREFIXES, SUFFIXES = ("teacher.", "step_teacher."), ("", "_half")  # of a weight's name in the graph
COMPARED = 4  # states and draws at which the network must answer what the graph does


class TimeTable(nn.Module):
    """The timesteps' share of the first layer as the graph holds it: a row for each, T first; 0, never asked, as 1."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.rows = nn.Parameter(rows)

    def forward(self, t: Tensor) -> Tensor:
        """Rows (n, size) of timesteps (n,)."""
        return self.rows[len(self.rows) - t.long().clamp(min=1)]


def read_teacher(bundle: LoadedBundle, recipe: TeacherRecipe) -> SrdpTeacher:
    """The network, of the recipe's sizes, whose weights the bundle's teacher has; its reconstruction head is random.

    Raises:
        SrdpError: the bundle's teacher is of another make than the recipe says.
    """
    other = f"{bundle.folder}: its teacher is not the recipe's"
    model = onnx.load_from_string(bundle.read(bundle.policy("teacher")))
    found = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    teacher = build_teacher(recipe, bundle.spec)
    alpha_bar, prediction = read_process(model)
    if prediction != teacher.process.prediction or len(alpha_bar) != len(teacher.alpha_bar):
        raise SrdpError(
            f"{other}: it predicts {prediction} in {len(alpha_bar) - 1} steps, teacher.prediction is "
            f"{recipe.prediction}, teacher.diffusion_steps {recipe.diffusion_steps}"
        )
    weights = {f"head.{name}": value for name, value in _normalisations(model, found, teacher).items()}
    for name, own in teacher.state_dict().items():
        if name in weights or name.startswith(("reconstruction.", "head.from_time.")):
            continue
        values = [found[key] for pre in PREFIXES for suffix in SUFFIXES if (key := pre + name + suffix) in found]
        if not values or values[0].shape != tuple(own.shape):
            has = f"{values[0].shape}" if values else "nothing"
            raise SrdpError(f"{other}: of {name} {tuple(own.shape)} it has {has}; see teacher.network")
        weights[name] = torch.from_numpy(values[0].astype(np.float32))
    teacher.load_state_dict(weights, strict=False)
    teacher.head.from_time = TimeTable(torch.from_numpy(found[BIAS].copy()))  # type: ignore[assignment]
    teacher.eval().requires_grad_(False)
    error = _difference(teacher, bundle)
    if error > PARITY_TOLERANCE:
        raise SrdpError(f"{other}: the network that was read differs from the graph by {error:.2g} scales")
    return teacher


def _normalisations(
    model: onnx.ModelProto, found: dict[str, np.ndarray], teacher: SrdpTeacher
) -> dict[str, torch.Tensor]:
    """Scales and shifts of the head's group normalisations: the exporter names them by number, in their order."""
    names = [name for name, module in teacher.head.named_modules() if isinstance(module, nn.GroupNorm)]
    loop = next(node for node in model.graph.node if node.op_type == "Loop")
    body = next(attribute.g for attribute in loop.attribute if attribute.name == "body")
    by_output = {output: node for node in body.node for output in node.output}
    pairs = [
        (found[by_output[node.input[0]].input[1]], found[node.input[1]])
        for node in body.node
        if node.op_type == "Add" and "group_norm" in node.output[0]
    ]
    if len(pairs) != len(names):
        raise SrdpError(f"the teacher's graph has {len(pairs)} group normalisations, the recipe's network {len(names)}")
    return {
        f"{name}.{part}": torch.from_numpy(value.flatten())
        for name, pair in zip(names, pairs, strict=True)
        for part, value in zip(("weight", "bias"), pair, strict=True)
    }


@torch.no_grad()
def _difference(teacher: SrdpTeacher, bundle: LoadedBundle) -> float:
    """Largest difference of the network's chunks from the graph's, in scales of the action."""
    spec, rng = bundle.spec, np.random.default_rng(0)
    (centre, scale), (action_centre, action_scale) = spec.observation_normalisation(), spec.action_normalisation()
    states = rng.standard_normal((COMPARED, spec.obs_dim)).astype(np.float32)
    noise = rng.standard_normal((COMPARED, 1, spec.horizon, spec.act_dim)).astype(np.float32)
    theirs = (BatchedPolicy(bundle, "teacher")(states * scale + centre, noise) - action_centre) / action_scale
    ours, _ = teacher.sample(torch.from_numpy(states), torch.from_numpy(noise).flatten(1))
    return float(np.abs(ours.clamp(-CLIP, CLIP).numpy() - theirs.reshape(COMPARED, -1)).max())
