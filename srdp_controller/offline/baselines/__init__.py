"""Policies trained directly on the data: what a sceptic would try before distilling anything (torch).

A training gives one policy or, sampled with more steps, several. The names stand here, where no torch is needed.
"""

TRAININGS: dict[str, tuple[str, ...]] = {
    "bc": ("bc",),
    "gmm": ("gmm",),
    "diffusion_k1": ("diffusion_k1",),
    "diffusion_k2": ("diffusion_k2",),
    "diffusion_k4": ("diffusion_k4",),
    "zero_snr": ("zero_snr_k1", "zero_snr_k2", "zero_snr_k4"),
    "flow": ("flow_k1", "flow_k2", "flow_k4"),
    "meanflow": ("meanflow_k1",),
    "consistency": ("consistency_k1",),
}
POLICIES = tuple(policy for policies in TRAININGS.values() for policy in policies)
