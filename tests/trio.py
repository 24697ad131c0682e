"""The three parties in one process, seated within milliseconds: the owner holds no images but those it trains on."""

from __future__ import annotations

import dataclasses

import numpy as np

from rhe_parties.messages.payloads import HeadReady, TrainHead
from rhe_parties.messages.setups import DataOwnerSetup, decode_setup, encode_setup
from rhe_parties.runner.plan import Laboratory
from rhe_parties.runner.seats import party_setups
from rhe_parties.threat.model import DATA_OWNER
from rhe_parties.threat.transcript import Transcript
from rhe_parties.transport import Switchboard
from rhe_parties.transport.local import LocalTransport
from tests.laboratory import TIMEOUT


def seat_trio(lab: Laboratory, world_index: int = 1) -> tuple[LocalTransport, Switchboard, Transcript]:
    """Parties with every victim head installed, the laboratory's desk, and what was said so far."""
    transport, transcript = LocalTransport(), Transcript()
    for party, setup in party_setups(lab, lab.worlds[world_index]).items():
        run_id, role = decode_setup(setup)
        if isinstance(role, DataOwnerSetup):
            used, place = np.unique(role.sets, return_inverse=True)
            sets = place.reshape(role.sets.shape).astype(np.int64)
            role = dataclasses.replace(role, images=role.images[used], labels=role.labels[used], sets=sets)
        transport.seat(party, encode_setup(run_id, role), TIMEOUT)
    board = Switchboard(transport, transcript, lab.run_id, lab.worlds[world_index].name, TIMEOUT)
    for index in range(len(lab.truth.sets)):
        board.ask(DATA_OWNER, TrainHead(lab.head_id(index), index), HeadReady)
    return transport, board, transcript
