"""A laboratory for one question: who can learn what about the private training data of a transfer-learned classifier?

A scenario file needs `Scenario` (or `Campaign`) and `run_as_program` from here; everything else is imported from its
own module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rhe_parties.cli.main import run_as_program
    from rhe_parties.runner.scenario import Scenario
    from rhe_parties.sweep.campaign import Campaign

__all__ = ["Campaign", "Scenario", "run_as_program"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import on first use, so that `rhe --help` does not wait for torch."""
    if name == "Scenario":
        from rhe_parties.runner.scenario import Scenario

        return Scenario
    if name == "Campaign":
        from rhe_parties.sweep.campaign import Campaign

        return Campaign
    if name == "run_as_program":
        from rhe_parties.cli.main import run_as_program

        return run_as_program
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
