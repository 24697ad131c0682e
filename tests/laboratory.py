"""A small world for tests: real digits, the shipped backbone, two victim heads."""

from __future__ import annotations

import functools
from typing import Any

from rhe_parties.messages.payloads import AskDecisions, Decision, HeadReady, TrainHead
from rhe_parties.runner.parameters import resolve_parameters
from rhe_parties.runner.plan import Laboratory, prepare
from rhe_parties.runner.seats import adversary_setup, party_setups
from rhe_parties.threat.model import ADVERSARY, DATA_OWNER, KEY_HOLDER
from rhe_parties.threat.transcript import Transcript
from rhe_parties.transport import Switchboard, Transport

TIMEOUT = 120.0


@functools.cache
def small_laboratory(worlds: str = "none,rhe", **more: Any) -> Laboratory:
    """Two victims, four decisions each; cached, because loading the data takes longer than the test."""
    given: dict[str, Any] = {
        "victims": 2,
        "evaluation_images": 4,
        "worlds": worlds,
        "adversary": "head-readout",
    }
    return prepare(resolve_parameters(given, more))


def play(lab: Laboratory, transport: Transport, world_index: int = 0) -> tuple[Transcript, list[Decision]]:
    """One world's protocol from key to decision over `transport`."""
    world = lab.worlds[world_index]
    transcript = Transcript()
    board = Switchboard(transport, transcript, lab.run_id, world.name, TIMEOUT)
    for party, setup in party_setups(lab, world).items():
        transport.seat(party, setup, TIMEOUT)
    for index in range(len(lab.truth.sets)):
        board.ask(DATA_OWNER, TrainHead(lab.head_id(index), index), HeadReady)
    decisions = []
    for index in range(len(lab.truth.sets)):
        images = lab.dataset.images[lab.evaluation[index]]
        decisions.append(board.ask(KEY_HOLDER, AskDecisions(f"r{index}", lab.head_id(index), images), Decision))
    return transcript, decisions


def seat_adversary(lab: Laboratory, transport: Transport) -> None:
    """Put the adversary's seat where the transport puts parties."""
    transport.seat(ADVERSARY, adversary_setup(lab), TIMEOUT)
