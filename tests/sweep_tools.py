"""A scenario whose cells take a moment: 48 images of two classes, no encryption; and jobs without Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rhe_parties.runner.scenario import Scenario
from rhe_parties.sweep.driver import SweepRequest
from rhe_parties.sweep.results import Sweep
from rhe_parties.sweep.table import TIMES, table_rows
from rhe_parties.transport import Job, JobEnd

SCENARIO_FILE = """
from rhe_parties import Scenario

scenario = Scenario(
    name="tiny",
    summary="Two classes of stripes.",
    parameters={
        "dataset": "imagefolder:%s",
        "victims": 1,
        "evaluation_images": 1,
        "examples": 0,
        "worlds": ("none", "none+decisions"),
        "adversary": ("head-readout",),
    },
)
"""


def write_images(folder: Path) -> None:
    """Two classes of 24 images, 8 × 8, that differ in where the bright stripe is."""
    stream = np.random.default_rng(0)
    for label in range(2):
        (folder / f"class{label}").mkdir(parents=True)
        for number in range(24):
            pixels = stream.integers(0, 90, (8, 8))
            pixels[:, 4 * label : 4 * label + 3] += 140
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"class{label}" / f"{number}.png")


def write_scenario(folder: Path) -> Path:
    """The scenario's file, with its images beside it."""
    write_images(folder / "images")
    file = folder / "tiny.py"
    file.write_text(SCENARIO_FILE % (folder / "images"))
    return file


class SerialJobs:
    """`RayJobs` in this process, one job after the other."""

    parallel = 1

    def __init__(self) -> None:
        self.done: list[str] = []

    def run(self, function: Callable[[Any], Any], jobs: Iterable[Job[Any]]) -> Iterator[JobEnd[Any]]:
        """See `RayJobs.run`."""
        for job in jobs:
            self.done.append(job.name)
            yield JobEnd(job.name, function(job.argument), "", 1)

    def close(self) -> None:
        """Nothing is open."""


def request(
    scenario: Scenario, file: Path, out: Path | str, grid: dict[str, tuple[str, ...]], **more: Any
) -> SweepRequest:
    """A quiet request."""
    given = more.pop("given", {})
    return SweepRequest(scenario, file, grid, given, str(out), quiet=True, **more)


def timeless(sweep: Sweep) -> list[dict[str, Any]]:
    """The table's rows without what tells of time."""
    rows = [row for cell in sweep.cells for row in table_rows(cell)]
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]
