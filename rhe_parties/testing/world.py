"""A small world for tests: real digits, the shipped backbone, two victim heads, every message serialised."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from rhe_parties.data.datasets import load_dataset
from rhe_parties.data.pictures import write_pictures
from rhe_parties.messages.payloads import (
    AdmitClient,
    AskDecisions,
    ClientAdmitted,
    Decision,
    HeadReady,
    KeyRotated,
    RotateKey,
    TrainHead,
)
from rhe_parties.runner.parameters import resolve_parameters
from rhe_parties.runner.plan import Laboratory, prepare
from rhe_parties.runner.seats import adversary_setup, party_setups
from rhe_parties.threat.model import ADVERSARY, DATA_OWNER, KEY_HOLDER
from rhe_parties.threat.transcript import Transcript
from rhe_parties.transport import Switchboard, Transport

__all__ = ["TIMEOUT", "play", "seat_adversary", "small_laboratory", "write_digits"]

TIMEOUT = 120.0


@functools.cache
def small_laboratory(worlds: str = "none,rhe", **more: Any) -> Laboratory:
    """Two victims, four decisions each; cached, because loading the data takes longer than most tests.

    Args:
        worlds: names of the worlds, separated by commas.
        more: any other parameters of a scenario.
    """
    given: dict[str, Any] = {
        "victims": 2,
        "evaluation_images": 4,
        "worlds": worlds,
        "adversary": "head-readout",
    }
    return prepare(resolve_parameters(given, more))


def play(lab: Laboratory, transport: Transport, world_index: int = 0) -> tuple[Transcript, list[Decision]]:
    """One world's protocol from key to decision over `transport`.

    Where the world lets the adversary be a client of the key holder, its seat must be taken before.
    """
    world = lab.worlds[world_index]
    transcript = Transcript()
    board = Switchboard(transport, transcript, lab.run_id, world.name, TIMEOUT)
    transport.seat_all(party_setups(lab, world), TIMEOUT)
    for index in range(len(lab.truth.sets)):
        board.ask(DATA_OWNER, TrainHead(lab.head_id(index), index), HeadReady)
    if world.client:
        board.ask(KEY_HOLDER, AdmitClient(ADVERSARY, lab.parameters.client_budget), ClientAdmitted)
    decisions = []
    for index in range(len(lab.truth.sets)):
        images = lab.dataset.images[lab.evaluation[index]]
        decisions.append(board.ask(KEY_HOLDER, AskDecisions(f"r{index}", lab.head_id(index), images), Decision))
    if world.rotated:
        board.ask(KEY_HOLDER, RotateKey(), KeyRotated)
    return transcript, decisions


def seat_adversary(lab: Laboratory, transport: Transport) -> None:
    """Put the adversary's seat where the transport puts parties."""
    transport.seat(ADVERSARY, adversary_setup(lab), TIMEOUT)


def write_digits(folder: Path, classes: int = 10, images_per_class: int = 60) -> str:
    """Some images of `digits` as an image folder; returns the dataset's name for a scenario."""
    write_pictures(load_dataset("digits"), folder, classes, 0, images_per_class)
    return f"imagefolder:{folder}"
