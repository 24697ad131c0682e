"""What the user sees while a run is under way."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

__all__ = ["Reporter", "Update"]


class Update(Protocol):
    """Moves a bar: how much is done so far, and what is being done."""

    def __call__(self, done: float, text: str = "") -> None:
        """Show it."""
        ...


class Reporter:
    """Progress bars on standard error (so that `--json` stays clean), and the seconds of each stage.

    Args:
        quiet: show nothing.
        pace_seconds: the time left is estimated from the pace of so many last seconds.
    """

    def __init__(self, quiet: bool = False, pace_seconds: float = 30.0) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<44}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=quiet,
            refresh_per_second=4,
            speed_estimate_period=pace_seconds,
        )
        self.stages: list[tuple[str, float]] = []

    def __enter__(self) -> Reporter:
        self._progress.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._progress.stop()

    @contextmanager
    def stage(self, name: str, total: float | None = None) -> Iterator[Update]:
        """One bar; call what it yields with (done so far, what is being done).

        Args:
            name: short title, also used in the record.
            total: what counts as all of it; None shows a moving bar.
        """
        task = self._progress.add_task(name, total=total)
        started = time.perf_counter()

        def update(done: float, text: str = "") -> None:
            self._progress.update(task, completed=done, description=f"{name}: {text}"[:60] if text else name)

        try:
            yield update
            final = total if total is not None else 1
            self._progress.update(task, completed=final, total=final, description=name)
        finally:
            self.stages.append((name, time.perf_counter() - started))
