"""One training loop for all networks: Adam, cosine learning rate, EMA weights, checkpoints.

A checkpoint holds everything that the loop's future depends on, so a run that was interrupted
continues to the same weights as one that was not.
"""

from __future__ import annotations

import copy
import io
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from srdp_controller.errors import SrdpError
from srdp_controller.files import write_file
from srdp_controller.progress import Progress

Network = TypeVar("Network", bound=nn.Module)
# step, generator, averaged model -> loss and the parts that are logged
Loss = Callable[[int, torch.Generator, nn.Module], tuple[Tensor, dict[str, Tensor]]]
HELD_OUT = 2000  # rows on which a network that is being trained is compared with those that it learns from
HeldOut = Callable[[Any], Tensor]  # averaged model -> its error on what it is not trained on


def save_atomically(state: object, path: Path) -> None:
    """Write a torch file, whole or not at all."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_file(path, buffer.getvalue())


def load_state(path: Path) -> dict[str, Any]:
    """Read a torch file of tensors and plain values (no code is ever unpickled)."""
    state: dict[str, Any] = torch.load(path, weights_only=True, map_location=torch.get_default_device())
    return state


def seeded(seed: int) -> torch.Generator:
    """A generator of the device in use; another kind of device draws other numbers from the same seed."""
    return torch.Generator(torch.get_default_device()).manual_seed(seed)


def load_weights(network: Network, path: Path) -> Network:
    """``network`` with the weights of ``path``, frozen."""
    network.load_state_dict(load_state(path))
    return network.eval().requires_grad_(False)


def _forget_after(metrics: Path, step: int) -> None:
    """Drop logged lines of steps that are about to be taken again."""
    lines = metrics.read_text().splitlines() if metrics.exists() else []
    kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
    metrics.write_text("".join(line + "\n" for line in kept))


def fit(
    model: Network,
    loss: Loss,
    *,
    folder: Path,
    name: str,
    steps: int,
    learning_rate: float,
    ema_decay: float,
    seed: int,
    progress: Progress,
    checkpoint_every: int = 2000,
    held_out: HeldOut | None = None,
) -> Network:
    """Minimise ``loss(step, generator, average)`` over the model's trainable parameters; returns the EMA model, frozen.

    It is kept as NAME.pt, which is not trained again where it is there already; an interrupted training goes on
    from NAME.checkpoint; NAME.jsonl gets one JSON line every 500 steps, with the error ``held_out`` where there is one.

    Raises:
        SrdpError: the checkpoint is of another kind of device.
    """
    weights, checkpoint, metrics = (folder / f"{name}.{ending}" for ending in ("pt", "checkpoint", "jsonl"))
    if weights.exists():
        return load_weights(model, weights)
    parameters: list[Tensor] = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=1e-6)
    average = copy.deepcopy(model)
    averaged: list[Tensor] = [
        p for p, q in zip(average.parameters(), model.parameters(), strict=True) if q.requires_grad
    ]
    generator = seeded(seed)
    start = 0
    if checkpoint.exists():
        state = load_state(checkpoint)
        saved = state["generator"].cpu()
        if len(saved) != len(generator.get_state()):
            raise SrdpError(f"{checkpoint}: begun on another --device; name that one, or delete the file to begin anew")
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        generator.set_state(saved)
        start = state["step"]
        _forget_after(metrics, start)
    warmup_steps = min(500, max(1, steps // 10))
    began = time.monotonic()
    with metrics.open("a") as log:
        for step in range(start, steps):
            warmup = min(1.0, (step + 1) / warmup_steps)
            rate = learning_rate * warmup * (0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * step / steps)))
            for group in optimiser.param_groups:
                group["lr"] = rate
            value, parts = loss(step, generator, average)
            optimiser.zero_grad(set_to_none=True)
            value.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            decay = min(ema_decay, (step + 1) / (step + 10))
            with torch.no_grad():
                torch._foreach_lerp_(averaged, parameters, 1.0 - decay)
            if (step + 1) % 500 == 0 or step + 1 == steps:
                if held_out is not None:
                    with torch.no_grad():
                        parts = {**parts, "held_out": held_out(average)}
                numbers = {name: float(part.detach()) for name, part in {"loss": value, **parts}.items()}
                log.write(json.dumps({"step": step + 1, **numbers}) + "\n")
                log.flush()
                rate_hz = (step + 1 - start) / (time.monotonic() - began)
                beside = f", held out {numbers['held_out']:.4f}" if held_out is not None else ""
                progress(step + 1, steps, f"loss {numbers['loss']:.4f}{beside}, {rate_hz:.0f} steps/s")
            if (step + 1) % checkpoint_every == 0:
                save_atomically(
                    {
                        "model": model.state_dict(),
                        "average": average.state_dict(),
                        "optimiser": optimiser.state_dict(),
                        "generator": generator.get_state(),
                        "step": step + 1,
                    },
                    checkpoint,
                )
    save_atomically(average.state_dict(), weights)
    checkpoint.unlink(missing_ok=True)
    return average.eval().requires_grad_(False)
