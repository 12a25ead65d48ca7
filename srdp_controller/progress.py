"""Progress on a terminal: one line a stage, rewritten in place; plain lines where there is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

Progress = Callable[[int, int, str], None]  # of one stage: done, total, text
Report = Callable[[str, int, int, str], None]  # of several stages: stage, done, total, text


class ProgressPrinter:
    """Prints (stage, done, total, text) with a bar, the share and the time that is left."""

    def __init__(self) -> None:
        self._stage = ""
        self._began = 0.0
        self._first = 0
        self._printed = 0.0
        self._terminal = sys.stderr.isatty()

    def __call__(self, stage: str, done: int, total: int, text: str) -> None:
        """Show one step of progress."""
        now = time.monotonic()
        if stage != self._stage:
            if self._stage and self._terminal:
                print(file=sys.stderr)
            self._stage, self._began, self._first, self._printed = stage, now, done, 0.0
        finished = done >= total
        if not finished and now - self._printed < (0.2 if self._terminal else 15.0):
            return
        self._printed = now
        share = done / max(total, 1)
        left = ""
        if not finished and done > self._first:
            seconds = (now - self._began) * (total - done) / (done - self._first)
            left = f", {seconds:.0f} s left"
        bar = "#" * int(24 * share)
        line = f"{stage:<12} [{bar:<24}] {share:4.0%} {text}{left}"
        if self._terminal:
            shown = line if finished else line[:118]  # what is written over must fit in one line
            print(f"\r{shown:<118}", end="\n" if finished else "", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)
