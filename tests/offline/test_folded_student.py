import numpy as np
import pytest

torch = pytest.importorskip("torch")

from srdp_controller.benchmarks.latency_floor import Floor  # noqa: E402
from srdp_controller.benchmarks.torch_engine import TorchGraph  # noqa: E402
from srdp_controller.offline.export.folded_student import FoldedStudentGraph, can_fold  # noqa: E402
from srdp_controller.offline.export.graphs import StudentGraph, export_student  # noqa: E402
from srdp_controller.policy.student import Student, fresh_trunk  # noqa: E402
from srdp_controller.policy.teacher import SrdpTeacher  # noqa: E402


@pytest.fixture(scope="module")
def teacher(spec):
    torch.manual_seed(0)
    action = spec.horizon * spec.act_dim
    return SrdpTeacher(spec.obs_dim, action, (24, 24), 12, (20, 20, 20), 8, "cosine", 50).requires_grad_(False)


def inputs(spec, count=16):
    generator = torch.Generator().manual_seed(1)
    centre, scale = spec.observation_normalisation()
    observation = torch.from_numpy(centre) + torch.from_numpy(scale) * torch.randn(
        count, spec.obs_dim, generator=generator
    )
    return observation, torch.randn(count, 1, spec.horizon, spec.act_dim, generator=generator)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_folding_changes_no_output(spec, teacher, steps):
    student = Student(teacher, steps).requires_grad_(False)
    plain, folded = (kind(student, teacher, spec)(*inputs(spec)) for kind in (StudentGraph, FoldedStudentGraph))
    for expected, found in zip(plain, folded, strict=True):
        assert expected.abs().max() > 0.01
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


def test_each_evaluation_is_its_four_products_and_three_activations(spec, teacher):
    onnx = pytest.importorskip("onnx")
    counts = []
    for steps in (2, 5):
        graph = onnx.load_from_string(
            export_student(Student(teacher, steps).requires_grad_(False), teacher, spec)
        ).graph
        counts.append({kind: sum(node.op_type == kind for node in graph.node) for kind in ("Gemm", "Sigmoid", "Mul")})
        assert not any(node.op_type in ("Sub", "Div", "Transpose") for node in graph.node)
    # a SiLU is a Sigmoid and a Mul
    assert {kind: (counts[1][kind] - counts[0][kind]) / 3 for kind in counts[0]} == {"Gemm": 4, "Sigmoid": 3, "Mul": 3}


def test_a_student_that_draws_fresh_noise_is_not_folded(spec, teacher):
    assert can_fold(Student(teacher, 2)) and not can_fold(Student(teacher, 2, resample=True))


def test_the_graph_in_pytorch_and_the_floor_know_its_products(spec, teacher):
    student = Student(teacher, 3).requires_grad_(False)
    fresh_trunk(student)  # one like the teacher's would be evaluated once for both
    graph = export_student(student, teacher, spec)
    observation, noise = inputs(spec, 1)
    expected = FoldedStudentGraph(student, teacher, spec)(observation, noise)
    for found, wanted in zip(TorchGraph(graph)(observation, noise), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-4)
    floor = Floor(graph)
    floor.run()
    assert len(floor.products) == 3 + 3 + 1 + 1 + 3 * 4  # two trunks, alignment, condition, three evaluations
    assert np.isfinite(floor.products[-1][2]).all()
