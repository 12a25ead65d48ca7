"""Networks, noise schedules, samplers, teacher and student (torch)."""
