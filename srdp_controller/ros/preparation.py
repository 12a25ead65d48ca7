"""From a request to an engine that is ready to drive: load, verify, warm up, measure, refuse what does not fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from rclpy.impl.rcutils_logger import RcutilsLogger

from srdp_controller.control.abstention import alarm_threshold
from srdp_controller.control.build import safety_limits, within_budget
from srdp_controller.control.coherence import Sampling
from srdp_controller.control.deployment import (
    Deployment,
    DeploymentRequest,
    fits,
    measure,
    require_budget,
    require_chunk,
    require_fit,
    require_same_robot,
)
from srdp_controller.engines.bundle import LoadedBundle, load_bundle
from srdp_controller.engines.corrector import CorrectorEngine
from srdp_controller.engines.engine import Engine
from srdp_controller.engines.engine_cache import cache_folder
from srdp_controller.engines.providers import NATIVE, EngineOptions
from srdp_controller.engines.signature import require_signature
from srdp_controller.errors import EngineError, SrdpError
from srdp_controller.messages import message_class
from srdp_controller.observation import ObservationAssembler
from srdp_controller.ros.parameters import bundle_folder
from srdp_controller.ros.run_files import require_mcap
from srdp_controller.spec import TWIST, PolicySpec

Load = Callable[[LoadedBundle, str, str, EngineOptions], Engine]


class Preparation:
    """Prepares deployments for one robot: the one of the bundle that the node was configured with.

    Attributes:
        values: the node's parameters, within that bundle's latency budget where it is enforced.
    """

    def __init__(self, values: Mapping[str, Any], first: DeploymentRequest, log: RcutilsLogger, load: Load) -> None:
        """Open the bundle of the first request and say everything that does not fit.

        Raises:
            SrdpError: a line for each thing that does not fit.
        """
        self.values, self._log, self._load = values, log, load
        self._period_ns = round(1e9 / values["update_rate"])
        self._latest: Deployment | None = None
        self.bundle = self._open(first)
        found = list(problems(self.bundle, first, values))
        if found:
            raise SrdpError("\n".join(found))
        self.values = within_budget(values, self.bundle.content.latency_budget)

    def _open(self, request: DeploymentRequest) -> LoadedBundle:
        bundle = load_bundle(bundle_folder(request.model_dir))
        if self.values["trusted_keys"]:
            require_signature(bundle, list(self.values["trusted_keys"]))
        return bundle

    def prepare(self, request: DeploymentRequest) -> Deployment:
        """Load, verify, warm up and measure an engine.

        Raises:
            SrdpError: it does not fit period or robot, or cannot be loaded.
        """
        values, name = self.values, request.engine
        same = bundle_folder(request.model_dir) == self.bundle.folder
        bundle = self.bundle if same else self._open(request)
        require_same_robot(self.bundle.spec, bundle.spec, str(bundle.folder))
        engine = self._engine(bundle, name, request.provider)
        usual, run_time = measure(engine, 100 if engine.evaluations <= 16 else 20)
        planning, spec = values["planning.mode"], bundle.spec
        ahead = planning in ("ahead", "corrected") or (planning == "auto" and not fits(run_time, self._period_ns))
        if ahead:
            chunk_ns = round(spec.horizon * spec.step_s * 1e9)
            gap = require_chunk(name, usual, chunk_ns, round(values["observation.max_age"] * 1e9))
            if gap:
                self._log.warning(gap)
        else:
            require_fit(name, run_time, self._period_ns)
            chosen = 1 if request.provider in NATIVE else bundle.content.candidates_of(name)
            drawn = request.candidates or chosen
            if drawn > 1:
                several = self._engine(bundle, name, request.provider, drawn)
                longer = measure(Sampling(several, spec)).longest_ns
                late = (
                    f"engine {name} takes {longer * 1e-3:.0f} us to sample {drawn} chunks, too long "
                    f"for a period of {self._period_ns * 1e-3:.0f} us; lower sampling.candidates or update_rate"
                )
                if fits(longer, self._period_ns):
                    engine, run_time = several, longer
                elif request.candidates:
                    raise EngineError(late)
                else:
                    self._log.warning(f"{late}: one chunk is sampled, not as many as the bundle says")
        budget = bundle.content.latency_budget
        if budget is not None:
            try:
                require_budget(name, run_time, budget)
            except EngineError as error:
                if values["latency.enforce"]:
                    raise
                self._log.warning(str(error))
        corrector = self._corrector(bundle, name) if planning == "corrected" else None
        threshold = alarm_threshold(bundle, name, values)
        last = self._latest
        if last is not None and replace(last.request, engine=name, candidates=request.candidates) == request:
            teacher = last.teacher
        else:
            teacher = self._engine(bundle, "teacher", request.provider)
            if values["abstain.enabled"]:
                self._warn_of_a_late_teacher(teacher)
        self._latest = Deployment(request, engine, threshold, run_time, teacher, ahead, corrector, budget)
        return self._latest

    def _warn_of_a_late_teacher(self, teacher: Engine) -> None:
        took_s, deadline_s = measure(teacher, 3).usual_ns * 1e-9, float(self.values["fallback.teacher_deadline"])
        if took_s > deadline_s:
            self._log.warning(
                f"the teacher takes {took_s * 1e3:.0f} ms, longer than fallback.teacher_deadline "
                f"({deadline_s * 1e3:.0f} ms): where the student abstains the robot holds; raise it, "
                "and observation.max_age, where the task bears plans as late as that"
            )

    def _corrector(self, bundle: LoadedBundle, name: str) -> CorrectorEngine:
        head = CorrectorEngine(bundle, name)
        require_fit(head.name, measure(head).longest_ns, self._period_ns)
        return head

    def _engine(self, bundle: LoadedBundle, name: str, provider: str, candidates: int = 1) -> Engine:
        values = self.values
        options = EngineOptions(values["engine_cache"], values["precision"], values["provider_fallback"], candidates)
        if provider in NATIVE:
            folder = cache_folder(bundle, options.cache)
            self._log.info(f"{name}: {provider} engine from {folder}; it is built now where it is not there")
        engine = self._load(bundle, name, provider, options)
        if options.fall_back and engine.provider != provider:
            self._log.warning(f"{name} runs on {engine.provider}: provider {provider} cannot be used here")
        return engine


def problems(bundle: LoadedBundle, request: DeploymentRequest, values: Mapping[str, Any]) -> Iterator[str]:
    """Everything that can be known, before an engine is loaded, not to fit: bundle, machine and parameters."""
    spec = bundle.spec
    checks: tuple[Callable[[], object], ...] = (
        lambda: bundle.policy(request.engine),
        lambda: request.engine not in bundle.content.policies or alarm_threshold(bundle, request.engine, values),
        lambda: safety_limits(values),
        lambda: within_budget(values, bundle.content.latency_budget),
        lambda: values["planning.mode"] == "corrected" and bundle.corrector(request.engine),
        *((require_mcap,) if values["record"] else ()),
    )
    for check in checks:
        try:
            check()
        except SrdpError as error:
            yield str(error)
    if values["helper_priority"] >= values["thread_priority"] > 0:
        yield (
            f"parameter helper_priority: {values['helper_priority']}: expected less than thread_priority "
            f"({values['thread_priority']}), or others would delay the control thread"
        )
    if values["command.type"] == "twist_stamped" and not any(g.output.type == TWIST for g in spec.action_groups):
        types = ", ".join(group.output.type for group in spec.action_groups)
        yield f"parameter command.type: twist_stamped: the bundle's outputs are {types}; leave it at spec"
    yield from message_problems(spec)


def message_problems(spec: PolicySpec) -> Iterator[str]:
    """Topics whose message packages are not installed here; the paths in the others were checked with the spec."""
    used = {plan.topic: plan.type for plan in ObservationAssembler(spec).plans.values()}
    used |= {group.output.topic: group.output.type for group in spec.action_groups}
    for topic, kind in used.items():
        if message_class(kind) is None:
            package = kind.partition("/")[0].replace("_", "-")
            yield f"{topic}: message type {kind} is not here; install ros-$ROS_DISTRO-{package}"
