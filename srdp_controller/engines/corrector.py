"""The correction head of late chunks on ONNX Runtime, on the CPU: it is far too small for anything else."""

from __future__ import annotations

import numpy as np

from srdp_controller.engines.bundle import LoadedBundle, corrector_shapes
from srdp_controller.engines.onnx_engine import create_session
from srdp_controller.errors import EngineError


class CorrectorEngine:
    """What a policy's late action lacks, in view of the newest observation; preallocated buffers of batch one, SI.

    The caller fills ``observation`` and ``origin`` (1, obs_dim), ``base_action`` (1, act_dim) and ``index`` (1, 1),
    calls ``run`` and reads ``correction`` (1, act_dim).
    """

    def __init__(self, bundle: LoadedBundle, name: str) -> None:
        """The head for policy ``name``.

        Raises:
            BundleError, EngineError: there is none, or it is not what the bundle's spec says.
        """
        entry, shapes = bundle.corrector(name), corrector_shapes(bundle.spec)
        where = str(bundle.folder / entry.file)
        self.name = f"corrector of {name}"
        session = self._session = create_session(bundle.read(entry), "cpu", where)
        found = {argument.name: argument.shape[1:] for argument in [*session.get_inputs(), *session.get_outputs()]}
        expected = {key: list(shape[1:]) for key, shape in shapes.items()}
        if found != expected:
            raise EngineError(f"{where}: the graph has {found}; expected {expected}")
        self.observation, self.base_action, self.origin, self.index, self.correction = (
            np.zeros(shape, np.float32) for shape in shapes.values()
        )
        self._inputs = {key: getattr(self, key) for key in list(shapes)[:-1]}

    def run(self) -> None:
        """Evaluate the head once on the buffers.

        Raises:
            EngineError: ONNX Runtime failed.
        """
        try:
            (self.correction[:],) = self._session.run(None, self._inputs)
        except Exception as error:  # ONNX Runtime raises its own unexported exception types
            raise EngineError(f"{self.name}: {str(error).splitlines()[0]}") from None
