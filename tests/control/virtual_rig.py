"""A cycle with real engines in virtual time: plans take as long as the test says."""

from srdp_controller.control.build import build_cycle, default_values
from srdp_controller.control.deployment import Deployment, DeploymentRequest
from srdp_controller.control.telemetry import Telemetry
from srdp_controller.engines.providers import load_engine
from srdp_controller.evaluation.virtual_planner import VirtualPlanner
from srdp_controller.observation import ObservationAssembler

MS = 1_000_000
JOINTS = [0.11316, 0.94705, 0.36785, -1.34959, -0.37755, 0.91374, -0.99858]  # tip at (-0.21, 0.045)
NOMINAL = {"/joint_states": JOINTS, "/object_pose": [-0.15, 0.03], "/goal_pose": [0.15, 0.0]}


class Virtual:
    """The cycle, its planners and everything that a test may turn; time passes only through ``step``."""

    load = staticmethod(load_engine)

    def __init__(self, bundle, *, engine="teacher", ahead=True, threshold=float("inf"), took_ms=40.0, **values):
        self.bundle = bundle
        self.now = 1_000 * MS
        self.took_ns = self.teacher_ns = round(took_ms * MS)
        self.published = []
        self.messages = dict(NOMINAL)
        self.age_ns = MS
        self.values = {**default_values(), "update_rate": 100.0, "safety.max_speed": 0.22, **values}
        self.assembler = ObservationAssembler(bundle.spec)
        self.teacher_engine = self.load(bundle, "teacher", "cpu")
        self.threshold, self.is_ahead = threshold, ahead
        first = self.prepare(DeploymentRequest(engine))
        clock = lambda: self.now  # noqa: E731
        self.teacher = VirtualPlanner(self.teacher_engine, clock, lambda: self.teacher_ns)
        self.planner = VirtualPlanner(first.engine, clock, lambda: self.took_ns)
        telemetry = Telemetry(10, bundle.spec)
        self.cycle = build_cycle(
            self.values,
            self.assembler,
            first,
            self.prepare,
            self.teacher,
            self.planner,
            telemetry,
            self.take,
            lambda command, following, measured: self.published.append((list(command), measured)),
        )
        self.period_ns = self.cycle.settings.period_ns

    def prepare(self, request):
        engine = self.load(self.bundle, request.engine, "cpu")
        return Deployment(request, engine, self.threshold, 0.0, self.teacher_engine, self.is_ahead)

    def swap(self, name, ahead):
        self.is_ahead = ahead
        self.cycle.slot._pending = self.prepare(DeploymentRequest(name))

    def take(self, now_ns):
        for topic, values in self.messages.items():
            self.assembler.update(topic, values, now_ns - self.age_ns)
        return 0

    def step(self, cycles=1):
        for _ in range(cycles):
            self.now += self.period_ns
            self.cycle(self.now)
        return self.cycle.supervisor.mode

    @property
    def command_age_ns(self):
        return self.now - self.published[-1][1]
