"""The versioned record of a run: the product. Table and report are rendered from it and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from rhe_parties.errors import DataError
from rhe_parties.metrics.truth import Curve, Histogram
from rhe_parties.types import AnyArray

__all__ = [
    "RECORD_FORMAT",
    "AttackRecord",
    "CurveRecord",
    "ExampleRecord",
    "HistogramRecord",
    "MessageRecord",
    "Record",
    "ResultRecord",
    "WorldRecord",
    "load_record",
    "save_record",
]

RECORD_FORMAT = 1


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ResultRecord(_Strict):
    """One statistic with its 95 % interval; `n` trials over `heads` victim heads; `chance`: value without leakage."""

    statistic: str
    value: float
    low: float
    high: float
    n: int
    heads: int
    chance: float | None = None


class ExampleRecord(_Strict):
    """One victim head's images as PNG data URIs (`data:image/png;base64,…`), ordered by class.

    `claimed` is empty where the attack made no image; `class_average` is the mean auxiliary image of each class
    (where training sets are balanced over something finer, of that).
    `subject` says what the images are: training images, or images that the head classified. `classes` names the
    class of each image where they are not ordered by class.
    """

    head_id: str
    true: list[str]
    claimed: list[str]
    class_average: list[str]
    subject: Literal["training", "inputs"] = "training"
    classes: list[str] = []


class CurveRecord(_Strict):
    """A ROC curve: true-positive rates with their 95 % band at ascending false-positive rates.

    Names: `roc`, `membership_roc`, `property_roc`, `input_roc`, each also with the prefix `null_`, and `np_roc…`.
    """

    name: str
    fpr: list[float]
    tpr: list[float]
    low: list[float]
    high: list[float]

    @classmethod
    def of(cls, curve: Curve) -> CurveRecord:
        """The record of a measured curve, to four significant digits."""
        return cls(
            name=curve.name, fpr=_brief(curve.x), tpr=_brief(curve.y), low=_brief(curve.low), high=_brief(curve.high)
        )


class HistogramRecord(_Strict):
    """Shares of two groups (members and not; second and first value of a property) per bin of the score."""

    name: str
    edges: list[float]
    positives: list[float]
    negatives: list[float]

    @classmethod
    def of(cls, histogram: Histogram) -> HistogramRecord:
        """The record of a measured histogram, to four significant digits."""
        return cls(
            name=histogram.name,
            edges=_brief(histogram.edges),
            positives=_brief(histogram.positives),
            negatives=_brief(histogram.negatives),
        )


def _brief(values: AnyArray) -> list[float]:
    return [float(f"{value:.4g}") for value in values]


class AttackRecord(_Strict):
    """One strategy in one world; `goal` is what it is after, "" where the strategy does not declare it."""

    adversary: str
    summary: str = ""
    goal: str = ""
    variant: Literal["as-is", "ciphertext"]
    outcome: Literal["leaked", "not-leaked", "blocked", "error", "not-applicable"]
    missing: list[str] = []
    error: str = ""
    results: list[ResultRecord] = []
    examples: list[ExampleRecord] = []
    curves: list[CurveRecord] = []
    histograms: list[HistogramRecord] = []
    notes: dict[str, str] = {}
    seconds: float = 0.0


class MessageRecord(_Strict):
    """All messages of one kind from one party to another."""

    kind: str
    sender: str
    recipient: str
    count: int
    total_bytes: int
    handled_seconds: float
    seen_by_adversary: bool


class WorldRecord(_Strict):
    """One defence setting: utility, cost, and every attack on it.

    `plan` are (name, value) rows of the encryption's plan, empty without encryption. `privacy` are (name, value) facts
    of what the defence guarantees, such as ε with its δ, sampling rate and steps; `epsilon` is the number of them that
    plots use. `utility` holds the statistics
    `accuracy`, `float_agreement` (decisions equal to those of the float head) and, under an exact scheme,
    `twin_agreement` (equal to those of the integer twin, which must be 1).
    """

    name: str
    defence: str
    summary: str = ""
    scheme: str = ""
    status: Literal["ok", "error"] = "ok"
    error: str = ""
    accuracy: float | None = None
    utility: list[ResultRecord] = []
    saturated_inputs: int = 0
    plan: list[tuple[str, str]] = []
    privacy: list[tuple[str, str]] = []
    epsilon: float | None = None
    messages: list[MessageRecord] = []
    attacks: list[AttackRecord] = []
    seconds: float = 0.0


class Record(_Strict):
    """Everything about one run.

    `parameters` are complete, `parameters_given` only what the user set. `threat_model` are (aspect, value) rows.
    `stages` are (what, seconds) in order. `command` repeats the run.
    """

    format: int = RECORD_FORMAT
    status: Literal["started", "ok", "error"] = "started"
    error: str = ""
    scenario: str
    summary: str = ""
    command: str = ""
    parameters: dict[str, Any] = {}
    parameters_given: dict[str, Any] = {}
    started: str = ""
    seconds: float = 0.0
    seeds: dict[str, int] = {}
    versions: dict[str, str] = {}
    machine: dict[str, str] = {}
    dataset: dict[str, Any] = {}
    backbone: dict[str, Any] = {}
    threat_model: list[tuple[str, str]] = []
    corrupted: list[str] = []
    worlds: list[WorldRecord] = []
    stages: list[tuple[str, float]] = []
    peak_memory_bytes: int | None = None
    transcript_sha256: str = ""
    transcript_messages: int = 0


def save_record(record: Record, path: Path) -> None:
    """Write `record.json`; the file appears whole or not at all.

    Raises:
        DataError: the folder cannot be written.
    """
    partial = path.with_suffix(".partial")
    try:
        partial.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise DataError(f"cannot write {str(path)!r}: {error.strerror}") from error


def load_record(path: Path) -> Record:
    """Read `record.json`, or the one in a run's folder.

    Raises:
        DataError: missing, not JSON, or of another format.
    """
    file = path / "record.json" if path.is_dir() else path
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"cannot read a record at {str(file)!r}: {error}") from error
    found = raw.get("format") if isinstance(raw, dict) else None
    if found != RECORD_FORMAT:
        raise DataError(f"{str(file)!r} has record format {found!r}; this program reads format {RECORD_FORMAT}")
    try:
        return Record.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise DataError(f"{str(file)!r} is damaged at {place}: {first['msg']}") from error
