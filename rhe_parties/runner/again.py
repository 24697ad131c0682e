"""A recorded run attacked again, offline: same views, another strategy, no party asked anything."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rhe_parties.errors import DataError
from rhe_parties.messages import decode
from rhe_parties.messages.payloads import ClientAdmitted
from rhe_parties.report.record import Record, load_record
from rhe_parties.runner.assault import attack
from rhe_parties.runner.parameters import resolve_parameters
from rhe_parties.runner.plan import Laboratory, prepare
from rhe_parties.runner.progress import Reporter
from rhe_parties.runner.seats import adversary_setup
from rhe_parties.runner.session import RunRequest, describe, keep, open_transport, recorded
from rhe_parties.threat.model import ADVERSARY
from rhe_parties.threat.transcript import Transcript
from rhe_parties.threat.view import AdversaryView, build_view
from rhe_parties.transport import Switchboard

__all__ = ["attack_again"]


def attack_again(
    folder: Path,
    adversary: str,
    given: Mapping[str, Any],
    out: Path | None = None,
    command: str = "",
    quiet: bool = False,
) -> Record:
    """Run strategies on the views of a recorded run.

    The laboratory is rebuilt from the recorded parameters, so the dataset must still be there. Strategies that ask the
    key holder are blocked: a recording answers no questions.

    Args:
        folder: of the run: `record.json` and `transcript.binpb`.
        adversary: strategies, separated by commas.
        given: parameters on top of the recorded ones: options of strategies, `data_root`, `transport`, `workers` …
        out: folder of the new record and report; None: `folder/attacks/NAME`, numbered where that exists.

    Raises:
        DataError: the recording is incomplete, damaged, or of other parameters or data.
        UserError, RheError: as a run.
    """
    old = load_record(folder)
    old_parameters = {key: value for key, value in old.parameters.items() if key != "options"}
    parameters = resolve_parameters(old_parameters, {"adversary": adversary}, given)
    transcript = _load(folder, old)
    place = out if out is not None else _new_folder(folder / "attacks", adversary)
    summary = f"{old.summary} Attacked again, offline.".strip()
    request = RunRequest(old.scenario, summary, parameters, dict(given), place, command, quiet)
    return recorded(request, functools.partial(_again, old, transcript))


def _load(folder: Path, old: Record) -> Transcript:
    path = folder / "transcript.binpb"
    transcript = Transcript.load(path)
    if hashlib.sha256(path.read_bytes()).hexdigest() != old.transcript_sha256:
        raise DataError(f"{str(path)!r} is not the transcript of the record beside it: their checksums differ")
    return transcript


def _new_folder(parent: Path, adversary: str) -> Path:
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in adversary.rpartition("/")[2])[:80]
    place, number = parent / name, 1
    while place.exists():
        number += 1
        place = parent / f"{name}-{number}"
    return place


def _again(old: Record, transcript: Transcript, request: RunRequest, record: Record, reporter: Reporter) -> None:
    with reporter.stage("data, backbone and plan", 1.0):
        lab = prepare(request.parameters)
    _check_same_run(lab, transcript)
    describe(lab, record)
    record.transcript_sha256, record.transcript_messages = old.transcript_sha256, old.transcript_messages
    recorded_worlds = {world.name: world for world in old.worlds}
    with open_transport(request.parameters, reporter) as transport:
        with reporter.stage("seating the adversary", 1.0):
            transport.seat(ADVERSARY, adversary_setup(lab), request.parameters.party_timeout)
        for world in lab.worlds:
            if world.name not in recorded_worlds:
                raise DataError(f"the recording has no world {world.name!r} (it has: {', '.join(recorded_worlds)})")
            cell = recorded_worlds[world.name].model_copy(deep=True, update={"attacks": []})
            record.worlds.append(cell)
            whole = build_view(transcript.world(world.name), world.threat_model(lab.threat_model))
            view = _without_grants(whole)
            timeout = request.parameters.party_timeout
            board = Switchboard(transport, Transcript(), lab.run_id, world.name, timeout)
            for attacker in lab.attackers:
                for variant in attacker.variants:
                    cell.attacks.append(attack(lab, world, attacker, variant, view, board, reporter))
            keep(request, record)


def _without_grants(view: AdversaryView) -> AdversaryView:
    """The view without the key holder's promise to answer, which a recording cannot keep."""
    return AdversaryView(tuple(data for data in view.data if not isinstance(decode(data).payload, ClientAdmitted)))


def _check_same_run(lab: Laboratory, transcript: Transcript) -> None:
    first = next(iter(transcript), None)
    if first is None:
        raise DataError("the recording holds no message: nothing to attack")
    if first.envelope.run_id != lab.run_id:
        raise DataError(
            f"the recording is of run {first.envelope.run_id!r}, these parameters give run {lab.run_id!r}: "
            "only the adversary, its options and where things run may differ"
        )
