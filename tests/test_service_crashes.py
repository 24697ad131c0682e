"""Either party killed at every step of its work, between any two writes and before and after every message."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from rhe_parties.threat.model import KEY_HOLDER, MODEL_HOST
from tests.crash_world import World, play

# Fewer than there are, so that a step that is not counted any more shows.
_LEAST_STEPS = {MODEL_HOST: 80, KEY_HOLDER: 180}


def _steps(folder: Path, party: str) -> list[str]:
    """What can be done to the party's work, in order."""
    world = World(folder, party)
    play(world)
    world.close()
    return world.steps


def _killed_at(folder: Path, party: str, at: int) -> str:
    world = World(folder, party, at)
    try:
        play(world)
    except AssertionError as error:
        raise AssertionError(f"{party} killed at step {at}, {world.point}: {error}") from error
    finally:
        world.close()
    assert world.kills == 1
    return world.point


@pytest.mark.parametrize("party", [MODEL_HOST, KEY_HOLDER])
def test_a_party_that_is_killed_at_some_steps_loses_nothing_and_decides_nothing_twice(
    party: str, tmp_path: Path
) -> None:
    steps = _steps(tmp_path / "whole", party)
    assert len(steps) >= _LEAST_STEPS[party]
    for kind in sorted(set(steps)):
        at = random.Random(0).choice([at for at, step in enumerate(steps) if step == kind])
        _killed_at(tmp_path / str(at), party, at)


@pytest.mark.slow
@pytest.mark.parametrize("party", [MODEL_HOST, KEY_HOLDER])
def test_a_party_that_is_killed_at_any_step_loses_nothing_and_decides_nothing_twice(party: str, tmp_path: Path) -> None:
    points = {_killed_at(tmp_path / str(at), party, at) for at in range(len(_steps(tmp_path / "whole", party)))}
    assert points >= {"before handling", "before keeping", "before sending", "after sending one", "after fsync"}
