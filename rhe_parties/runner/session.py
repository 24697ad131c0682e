"""One run from parameters to a record on disk, whatever happens on the way."""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rhe_parties.errors import DataError, RheError, UserError
from rhe_parties.parties.release import parse_release
from rhe_parties.report.html import render_html
from rhe_parties.report.record import Record, WorldRecord, save_record
from rhe_parties.runner.assault import attack_world
from rhe_parties.runner.memory import MemoryWatch
from rhe_parties.runner.parameters import Parameters
from rhe_parties.runner.plan import Laboratory, prepare
from rhe_parties.runner.progress import Reporter
from rhe_parties.runner.seats import adversary_setup
from rhe_parties.runner.world import World
from rhe_parties.runner.worlds import run_world
from rhe_parties.threads import limited_threads, one_blas_thread
from rhe_parties.threat.model import ADVERSARY
from rhe_parties.threat.transcript import Transcript
from rhe_parties.transport import RayOptions, Transport, make_transport

__all__ = ["RunRequest", "describe", "keep", "open_transport", "package_versions", "reason", "recorded", "run"]

_PACKAGES = ("rhe-parties", "ray", "grpcio", "torch", "torchvision", "tenseal", "numpy", "protobuf", "scikit-learn")


@dataclass(frozen=True)
class RunRequest:
    """What to run: the scenario's name and summary, its parameters, where to put the results, and how it was asked.

    Without a folder (`out` None) nothing is written: the record that `run` returns is all there is.
    """

    scenario: str
    summary: str
    parameters: Parameters
    given: dict[str, Any]
    out: Path | None
    command: str
    quiet: bool = False


Work = Callable[[RunRequest, Record, Reporter], None]


def run(request: RunRequest) -> Record:
    """Run a scenario; record, transcript and report are in `request.out` afterwards, also after a failure.

    Raises:
        UserError: a mistake found before anything was computed.
        RheError, KeyboardInterrupt: after the record with status `error` has been written.
    """
    transcript = Transcript()
    return recorded(request, functools.partial(_run, transcript), functools.partial(_save_transcript, transcript))


def recorded(request: RunRequest, work: Work, save: Callable[[RunRequest, Record], None] | None = None) -> Record:
    """Do `work` with progress on the terminal, and write what it made of the record, whatever happens.

    Args:
        save: called before the record is written; what else belongs into the folder.

    Raises:
        UserError, RheError, KeyboardInterrupt: what the work raised, after record and report have been written.
    """
    if request.out is not None:
        _make_folder(request.out)
    record = _new_record(request)
    started = time.perf_counter()
    one_blas_thread()
    reporter = Reporter(request.quiet)
    watch = MemoryWatch()
    try:
        with watch, reporter, limited_threads(request.parameters.threads):
            work(request, record, reporter)
        record.status = "ok"
    except BaseException as error:
        record.status = "error"
        record.error = reason(error)
        raise
    finally:
        record.seconds = time.perf_counter() - started
        record.stages = reporter.stages
        record.peak_memory_bytes = watch.peak_bytes
        if save is not None:
            save(request, record)
        _finish(request, record)
    return record


def _run(transcript: Transcript, request: RunRequest, record: Record, reporter: Reporter) -> None:
    with reporter.stage("data, backbone and plan", 1.0):
        lab = prepare(request.parameters)
    describe(lab, record)
    keep(request, record)
    with open_transport(request.parameters, reporter) as transport:
        with reporter.stage("seating the adversary", 1.0):
            transport.seat(ADVERSARY, adversary_setup(lab), request.parameters.party_timeout)
        for world in lab.worlds:
            cell = _world_record(world, request.parameters)
            record.worlds.append(cell)
            try:
                run_world(lab, world, transport, transcript, reporter, cell)
                attack_world(lab, world, transport, transcript, reporter, cell)
            except BaseException as error:
                cell.status, cell.error = "error", reason(error)
                raise
            keep(request, record)


def keep(request: RunRequest, record: Record) -> None:
    """Write the record as far as it has come, where the run has a folder."""
    if request.out is not None:
        save_record(record, request.out / "record.json")


def open_transport(parameters: Parameters, reporter: Reporter) -> Transport:
    """The transport that the parameters name, started or joined."""
    if parameters.transport != "ray":
        return make_transport(parameters.transport)
    with reporter.stage("starting Ray" if parameters.address is None else "joining the Ray cluster", 1.0):
        return make_transport("ray", RayOptions(parameters.address, parameters.workers, parameters.resources))


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".writable"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise DataError(f"cannot write to output folder {str(out)!r}: {error.strerror}") from error


def _new_record(request: RunRequest) -> Record:
    return Record(
        scenario=request.scenario,
        summary=request.summary,
        command=request.command,
        parameters=request.parameters.model_dump(mode="json"),
        parameters_given=request.given,
        started=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        seeds={"root": request.parameters.seed},
        versions=package_versions(),
        machine={"system": f"{platform.system()} {platform.machine()}", "cores": str(os.cpu_count() or 0)},
    )


def package_versions() -> dict[str, str]:
    """Versions by name of Python and of the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed as a package"
    return found


def describe(lab: Laboratory, record: Record) -> None:
    """Put what was prepared into the record: data, backbone, threat model."""
    p = lab.parameters
    candidates = [int((lab.truth.labels == k).sum()) for k in range(lab.truth.classes)]
    record.dataset = {
        "name": lab.dataset.name,
        "classes": list(lab.dataset.class_names),
        "image_shape": list(lab.dataset.images.shape[1:]),
        "private_images": len(lab.splits.private),
        "auxiliary_images": len(lab.auxiliary),
        "evaluation_images": len(np.unique(lab.evaluation)),
        "victim_heads": len(lab.truth.sets),
        "images_per_head": int(lab.truth.sets.shape[1]),
        "images_per_class": p.images_per_class,
        "candidates_per_class": [min(candidates), max(candidates)],
    }
    record.backbone = {
        "name": lab.backbone.name,
        "features": lab.backbone.features,
        "fingerprint": lab.backbone.fingerprint,
        "untrained": lab.backbone.untrained,
    }
    released = parse_release(p.release).describe()
    record.threat_model = dataclasses.replace(lab.threat_model, decisions_leak=released).rows()
    record.corrupted = list(lab.threat_model.corrupted)


def _world_record(world: World, parameters: Parameters) -> WorldRecord:
    plan = [] if world.plan is None else [(name, f"{value}") for name, value, _why in world.plan.describe()]
    return WorldRecord(
        name=world.name,
        defence=world.defences[0].reference,
        summary=world.describe(parameters),
        scheme=world.scheme,
        plan=plan,
        privacy=list(world.facts),
        epsilon=world.epsilon,
    )


def reason(error: BaseException) -> str:
    """Why a run or a part of it failed, in the words of its record."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted by the user"
    return str(error) if isinstance(error, RheError) else f"{type(error).__name__}: {error}"


def _save_transcript(transcript: Transcript, request: RunRequest, record: Record) -> None:
    if request.out is None:
        return
    path = request.out / "transcript.binpb"
    try:
        record.transcript_sha256 = transcript.save(path)
    except OSError as error:
        if sys.exc_info()[1] is None or not isinstance(sys.exc_info()[1], UserError):
            raise DataError(f"cannot write {str(path)!r}: {error.strerror}") from error
    record.transcript_messages = len(transcript)


def _finish(request: RunRequest, record: Record) -> None:
    """Write everything that there is; called on every way out of a run."""
    if request.out is None:
        return
    keep(request, record)
    report = request.out / "report.html"
    try:
        report.write_text(render_html(record), encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot write {str(report)!r}: {error.strerror}") from error
