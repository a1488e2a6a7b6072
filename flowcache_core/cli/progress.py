"""Progress on a terminal: chunk steps done, what was skipped, time left. Quiet where nobody watches."""

import sys
import time

from ..generation import Progress


class ProgressLine:
    """Rewrites one line of stderr; on anything but a terminal it prints nothing."""

    def __init__(self, label: str) -> None:
        self.label, self._begin, self._drawn = label, time.monotonic(), 0.0
        self._skipped = self._decided = 0
        self._live = sys.stderr.isatty()

    def __call__(self, progress: Progress) -> None:
        self._decided += len(progress.decisions)
        self._skipped += sum(not d.computes for d in progress.decisions.values())
        now = time.monotonic()
        if not self._live or now - self._drawn < 0.1 and progress.done < progress.total:
            return
        self._drawn = now
        spent = now - self._begin
        left = spent / progress.done * (progress.total - progress.done)
        bar = "#" * (24 * progress.done // progress.total)
        share = self._skipped / max(1, self._decided)
        sys.stderr.write(f"\r{self.label:<12} [{bar:<24}] chunk {progress.last.chunks[-1]:>3}  "
                         f"skipped {share:4.0%}  {spent:5.1f} s, {left:5.1f} s left ")
        sys.stderr.flush()

    def end(self) -> None:
        if self._live:
            sys.stderr.write("\n")
