"""What is asked of `RayJobs` and what comes back; kept apart so that saying it does not import Ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["Job", "JobEnd"]

A = TypeVar("A")
R = TypeVar("R")


@dataclass(frozen=True)
class Job(Generic[A]):
    """One piece of work: its name, what the function is called with, and the resources that it reserves."""

    name: str
    argument: A
    resources: Mapping[str, float]


@dataclass(frozen=True)
class JobEnd(Generic[R]):
    """How a job ended: with what the function returned, or without (`result` None) and then why.

    `attempts` counts how often it was begun; more than once after a process or a machine died.
    """

    name: str
    result: R | None
    lost: str
    attempts: int
