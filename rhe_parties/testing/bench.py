"""Runs one strategy at a real seat in a small world, and keeps what it did besides its claim."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from rhe_parties.attacks.base import ADVERSARIES, AS_IS, PriorKnowledge, Strategy
from rhe_parties.attacks.pools import Pool, SerialPool
from rhe_parties.errors import ParameterError
from rhe_parties.messages.payloads import AttackRequest, Challenge, ClaimReport
from rhe_parties.model.head import Recipe
from rhe_parties.parties.adversary import AdversarySeat
from rhe_parties.runner.plan import Laboratory
from rhe_parties.testing.world import TIMEOUT, play, small_laboratory, write_digits
from rhe_parties.threads import limited_threads
from rhe_parties.threat.model import ADVERSARY
from rhe_parties.threat.transcript import Transcript
from rhe_parties.threat.view import Observation, build_view
from rhe_parties.transport import Switchboard
from rhe_parties.transport.local import LocalTransport
from rhe_parties.types import AnyArray

__all__ = ["BackwardPool", "Outcome", "Scene", "Trial", "reference_of", "scene_for"]

A = TypeVar("A")
R = TypeVar("R")


class BackwardPool:
    """Runs the pieces last one first: whatever depends on their order shows."""

    def map(self, function: Callable[[A], R], pieces: Sequence[A]) -> list[R]:
        """See `rhe_parties.attacks.pools.Pool.map`."""
        with limited_threads(1):
            return [function(piece) for piece in reversed(pieces)][::-1]

    def stream(self, function: Callable[[A], R], pieces: Iterable[A]) -> Iterator[R]:
        """See `rhe_parties.attacks.pools.Pool.stream`; four pieces at a time are run backwards."""
        block: list[A] = []
        for piece in pieces:
            block.append(piece)
            if len(block) == 4:
                yield from self.map(function, block)
                block = []
        yield from self.map(function, block)


@dataclass(frozen=True)
class Scene:
    """A small world that holds what a strategy needs; `parameters` of a scenario as sorted pairs."""

    world: str
    parameters: tuple[tuple[str, Any], ...]

    @property
    def laboratory(self) -> Laboratory:
        """The laboratory of this scene; cached."""
        other = "rhe" if self.world.startswith("none") else "none"
        return small_laboratory(f"{self.world},{other}", **dict(self.parameters))


@dataclass(frozen=True)
class Outcome:
    """What came of a run: the report, progress as it was given, CPU seconds, whether the prior was untouched."""

    report: ClaimReport
    progress: tuple[float, ...]
    seconds: float
    prior_untouched: bool


@dataclass
class Trial:
    """A strategy, its options as text, and a scene to run it in."""

    reference: str
    options: Mapping[str, str]
    scene: Scene

    def run(
        self,
        variant: str = AS_IS,
        pool: Pool | None = None,
        empty: bool = False,
        backwards: bool = False,
        memory: dict[str, object] | None = None,
        seed: int = 11,
    ) -> Outcome:
        """Play the protocol, seat the adversary, run the strategy once.

        Args:
            variant: as-is or ciphertext.
            pool: for pieces of work; the serial one by default.
            empty: give the strategy a view without any envelope, and no challenge.
            backwards: name the victims in the opposite order, and turn the challenge with them.
            memory: of the seat; a fresh one by default.
            seed: of the strategy.
        """
        lab = self.scene.laboratory
        prior = _sealed_prior(self.scene)
        before = _digest(prior)
        with _Bench() as bench:
            seat = _WatchedSeat(
                lab.run_id, prior, SerialPool() if pool is None else pool, {} if memory is None else memory
            )
            bench.take(seat)
            request = AttackRequest(
                world=self.scene.world,
                adversary=self.reference,
                source="",
                variant=variant,
                option_names=tuple(self.options),
                option_values=tuple(self.options.values()),
                seed=seed,
                view=() if empty else self._view(bench),
                head_ids=lab.head_ids[:: -1 if backwards else 1],
                active=lab.worlds[0].malicious,
                challenge=Challenge() if empty else _turned(lab.task.challenge, backwards),
            )
            board = Switchboard(bench, Transcript(), lab.run_id, self.scene.world, TIMEOUT)
            started = time.process_time()
            report = board.order_attack(request, ClaimReport, TIMEOUT, lambda _done, _text: None)
            seconds = time.process_time() - started
        return Outcome(report, tuple(seat.fractions), seconds, _digest(prior) == before)

    def _view(self, bench: _Bench) -> tuple[bytes, ...]:
        """The view of the scene; a key holder that will be asked plays its part anew, so that it counts from zero."""
        return _seen(self.scene, bench) if self.scene.laboratory.worlds[0].client else _seen_once(self.scene)


def _seen(scene: Scene, bench: _Bench) -> tuple[bytes, ...]:
    lab = scene.laboratory
    transcript, _ = play(lab, bench)
    return build_view(transcript, lab.worlds[0].threat_model(lab.threat_model)).data


@functools.cache
def _seen_once(scene: Scene) -> tuple[bytes, ...]:
    with _Bench() as bench:
        return _seen(scene, bench)


class _Bench(LocalTransport):
    """The local transport with a seat that was built here."""

    def __enter__(self) -> _Bench:
        return self

    def take(self, seat: AdversarySeat) -> None:
        self._parties[ADVERSARY] = seat


class _WatchedSeat(AdversarySeat):
    """Keeps fractions of progress before the seat cuts them to [0, 1]."""

    def __init__(self, run_id: str, prior: PriorKnowledge, pool: Pool, memory: dict[str, object]) -> None:
        super().__init__(run_id, prior, pool)
        self._memory = {None: memory}
        self.fractions: list[float] = []

    def _note(self, fraction: float, text: str) -> None:
        self.fractions.append(fraction)
        super()._note(fraction, text)


_ENCRYPTED = {Observation.ENCRYPTED_HEAD, Observation.PUBLIC_KEY, Observation.HOST_CONTROL}


def scene_for(needs: frozenset[Observation], parameters: Mapping[str, Any], classes: int = 10) -> Scene:
    """A scene that holds `needs`; with two classes it has one victim, the smallest there is.

    Args:
        needs: what the strategy's variant needs.
        parameters: of a scenario, beside those that follow from the needs.
        classes: digits 0, 1, … that the world knows.
    """
    given: dict[str, Any] = {"dataset": _some_digits(classes), "client_budget": 0}
    tasks = {
        Observation.CANDIDATES: "membership",
        Observation.KNOWN_IMAGES: "informed",
        Observation.PROPERTY: "property",
    }
    for need, task in tasks.items():
        if need in needs:
            given["task"] = task
    if Observation.INITIAL_WEIGHTS in needs:
        given["initial_weights"] = True
    world = "rhe" if needs & _ENCRYPTED else "none"
    if needs & {Observation.ORACLE, Observation.ORACLE_SCORES, Observation.VALUES, Observation.HOST_CONTROL}:
        world += "+client"
    if needs & {Observation.DECISIONS, Observation.RELEASED_SCORES}:
        world += "+decisions"
    if Observation.HOST_CONTROL in needs:
        world += "+malicious"
    if Observation.ADAPTED_BLOCK in needs:
        world += "+fine-tuned"
    if needs & {Observation.RELEASED_SCORES, Observation.ORACLE_SCORES, Observation.VALUES}:
        world += "+release=logits"
    if classes == 2:
        given["victims"] = 1
    if classes == 2 and Observation.PROPERTY in needs:
        # A property has two values, each needs a head, and a share of a class needs more than one image.
        given |= {"victims": 2, "images_per_class": 4}
    return Scene(world, tuple(sorted((given | dict(parameters)).items())))


@functools.cache
def _some_digits(classes: int) -> str:
    return write_digits(Path(_folder().name) / f"{classes}-classes", classes)


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="conformance-")


def reference_of(strategy: type[Strategy] | str) -> str:
    """The name by which the seat finds a strategy: its registered one, or its file and class."""
    if isinstance(strategy, str):
        return strategy
    if strategy.name in ADVERSARIES.names() and ADVERSARIES.load(strategy.name) is strategy:
        return strategy.name
    return f"{inspect.getsourcefile(strategy)}:{strategy.__name__}"


def _sealed_prior(scene: Scene) -> PriorKnowledge:
    """Prior knowledge whose arrays refuse to be written to; every time in memory of its own."""
    known = _prior(scene)
    prior = dataclasses.replace(
        known,
        auxiliary_images=known.auxiliary_images.copy(),
        auxiliary_labels=known.auxiliary_labels.copy(),
    )
    prior._extracted.append(known.auxiliary_features.copy())
    for array in _arrays(prior):
        array.setflags(write=False)
    return prior


@functools.cache
def _prior(scene: Scene) -> PriorKnowledge:
    lab = scene.laboratory
    recipe = lab.worlds[0].recipe
    if not isinstance(recipe, Recipe):
        raise ParameterError(f"hidden={lab.parameters.hidden} is not allowed in a scene: 0")
    return PriorKnowledge(
        backbone=lab.backbone,
        recipe=recipe,
        classes=lab.truth.classes,
        images_per_class=lab.parameters.images_per_class,
        auxiliary_images=lab.dataset.images[lab.auxiliary],
        auxiliary_labels=lab.dataset.labels[lab.auxiliary],
    )


def _arrays(prior: PriorKnowledge) -> list[AnyArray]:
    return [prior.auxiliary_images, prior.auxiliary_labels, prior.auxiliary_features]


def _digest(prior: PriorKnowledge) -> str:
    digest = hashlib.sha256()
    for array in _arrays(prior):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _turned(challenge: Challenge, backwards: bool) -> Challenge:
    """The challenge with its victims in the opposite order; what is not about single victims stays."""
    if not backwards:
        return challenge
    kept = {"property_values", "property_name"}
    turned: dict[str, Any] = {f.name: getattr(challenge, f.name) for f in dataclasses.fields(challenge)}
    for name, array in turned.items():
        if name not in kept and array is not None:
            turned[name] = array[::-1].copy()
    return Challenge(**turned)
