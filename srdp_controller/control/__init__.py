"""The real-time side: clock, loop, statistics, supervisor, teacher worker, swap, safety filter (numpy only)."""
