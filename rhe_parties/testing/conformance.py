"""What every strategy owes the laboratory, as a suite for pytest that third parties run on their own::

    class TestMine(StrategyConformance):
        strategy = Mine                    # the class, or its registered name
        options = {"rounds": "3"}          # small ones, so that the suite is quick
        parameters = {"images_per_class": 2}   # of the small scenario, where the strategy needs it

Each test runs the strategy at a real seat on the view of a real, small protocol run: digits, two victims, serialised
messages. The view and the challenge hold what the strategy says it needs.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import sys
import unittest
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from rhe_parties.attacks.base import ADVERSARIES, AS_IS, CIPHERTEXT, Strategy
from rhe_parties.errors import ParameterError
from rhe_parties.messages.adversarial import NULL_PREFIX
from rhe_parties.messages.payloads import ClaimReport
from rhe_parties.registry import parse_options
from rhe_parties.runner.plan import Laboratory
from rhe_parties.testing.bench import BackwardPool, Outcome, Trial, reference_of, scene_for
from rhe_parties.threat.view import Observation
from rhe_parties.types import FloatArray

__all__ = ["StrategyConformance"]

#: Where ground truth lives, and what would lead there: nothing that a strategy may import.
FORBIDDEN = ("metrics", "report", "parties", "transport", "runner", "testing", "bench", "cli")
#: Rounding of a float32 that was clipped to [-1, 1] somewhere else.
_ROUNDING = 1e-6


class StrategyConformance:
    """Subclass with `strategy`; see the module."""

    strategy: ClassVar[type[Strategy] | str]
    options: ClassVar[Mapping[str, str]] = {}
    parameters: ClassVar[Mapping[str, Any]] = {}
    #: Classes of the small world; few make a strategy quick whose work grows with them.
    classes: ClassVar[int] = 10
    #: CPU seconds that one run in the small world may take, in all threads; other programs do not count.
    seconds: ClassVar[float] = 60.0

    @property
    def cls(self) -> type[Strategy]:
        """The strategy's class."""
        return ADVERSARIES.load(self.strategy) if isinstance(self.strategy, str) else self.strategy

    def trial(self, variant: str = AS_IS, smallest: bool = False) -> Trial:
        """The strategy in the scene that it needs."""
        needs = self.cls.needs if variant == AS_IS else self.cls.ciphertext_needs
        scene = scene_for(needs, self.parameters, 2 if smallest else self.classes)
        return Trial(reference_of(self.strategy), self.options, scene)

    def first(self) -> Outcome:
        """The first run, made once for all tests of the class."""
        return _first_run(type(self))[0]

    # ---- what it says of itself --------------------------------------------------------------------------------

    def test_it_introduces_itself(self) -> None:
        """Name, one line of summary, and a source."""
        for what in ("name", "summary", "source"):
            text = getattr(self.cls, what)
            assert isinstance(text, str), f"{what} is no text"
            assert text, f"{what} is empty"
            assert "\n" not in text, f"{what} has more than one line"
        assert not set(self.cls.name) & set(" ,.:=+/"), f"{self.cls.name!r} cannot be given on a command line"

    def test_needs_are_observations(self) -> None:
        """Needs are stated in words of the view, and the scene made of them holds them."""
        for need in self.cls.needs | self.cls.ciphertext_needs:
            assert isinstance(need, Observation), f"{need!r} is no Observation"

    def test_options_parse_from_text(self) -> None:
        """`Options` is a frozen dataclass of plain values with defaults; text gives the same values back."""
        kind = self.cls.Options
        assert dataclasses.is_dataclass(kind), "Options is no dataclass"
        parameters: Any = getattr(kind, "__dataclass_params__")  # noqa: B009 - typeshed does not know it
        assert parameters.frozen, "Options is not frozen"
        defaults = kind()
        texts = {}
        for field in dataclasses.fields(kind):
            value = getattr(defaults, field.name)
            assert isinstance(value, bool | int | float | str), f"{field.name}={value!r} cannot be given as text"
            texts[field.name] = str(value).lower() if isinstance(value, bool) else str(value)
        assert parse_options("adversary", self.cls, texts) == defaults, "default options given as text become others"
        assert "no-such-option" in _refusal(self.cls, {"no-such-option": "1"}), "an unknown option is accepted"

    def test_it_imports_nothing_that_leads_to_the_truth(self) -> None:
        """Neither its module nor a module of the same package that it imports reaches past the view."""
        assert not sorted(_imports_of_truth(self.cls.__module__, set())), "it imports what a strategy must not see"

    # ---- what it makes of a view -------------------------------------------------------------------------------

    def test_it_is_blocked_without_a_view(self) -> None:
        """Whoever needs something is blocked by its absence, and by nothing else."""
        report = self.trial().run(empty=True).report
        if self.cls.needs:
            assert report.outcome == "blocked", report.error
            assert set(report.missing) == {str(need) for need in self.cls.needs}, f"missing: {report.missing}"
        else:
            assert report.outcome == "claim", report.error

    def test_it_claims_something_of_every_victim(self) -> None:
        """A claim of the right shape, finite, for the victims in their order."""
        outcome = self.first()
        _check_claim(outcome.report, self.trial().scene.laboratory)
        assert outcome.report.head_ids == self.trial().scene.laboratory.head_ids, f"it names {outcome.report.head_ids}"

    def test_it_is_done_in_time(self) -> None:
        """No more than `seconds` of the processor."""
        assert self.first().seconds < self.seconds, f"it took {self.first().seconds:.1f} s"

    def test_progress_is_a_fraction(self) -> None:
        """Every step of progress lies in [0, 1]."""
        wrong = [fraction for fraction in self.first().progress if not 0 <= fraction <= 1]
        assert not wrong, f"progress of {wrong[:3]}"

    def test_prior_knowledge_is_left_alone(self) -> None:
        """The arrays are write-protected; they are also the same bytes afterwards."""
        assert self.first().prior_untouched, "prior knowledge was changed"

    def test_the_same_seed_gives_the_same_claim_from_any_pool(self) -> None:
        """Bit-equal arrays from another run whose pieces of work are done in another order."""
        once, again = self.first().report, self.trial().run(pool=BackwardPool()).report
        assert again.outcome == "claim", again.error
        assert again.array_names == once.array_names, "another run claims other things"
        for name, first, second in zip(once.array_names, once.arrays, again.arrays, strict=True):
            assert np.array_equal(first, second), f"{name} differs"
        assert np.array_equal(once.queries, again.queries), "queries differ"

    def test_victims_keep_the_order_in_which_they_are_named(self) -> None:
        """The other way round, with the memory of the first run."""
        report = self.trial().run(backwards=True, memory=_first_run(type(self))[1]).report
        _check_claim(report, self.trial().scene.laboratory)
        assert report.head_ids == self.trial().scene.laboratory.head_ids[::-1], f"it names {report.head_ids}"

    def test_it_survives_the_smallest_world(self) -> None:
        """One victim, two classes."""
        trial = self.trial(smallest=True)
        _check_claim(trial.run().report, trial.scene.laboratory)

    def test_the_ciphertext_variant_runs_on_real_bytes(self) -> None:
        """Blocked without a view, a claim from the host's."""
        if not self.cls.ciphertext_needs:
            raise unittest.SkipTest("it has no ciphertext variant")
        trial = self.trial(CIPHERTEXT)
        outcome = trial.run(CIPHERTEXT, empty=True).report.outcome
        assert outcome == "not-applicable", f"without ciphertexts the outcome is {outcome}"
        _check_claim(trial.run(CIPHERTEXT).report, trial.scene.laboratory)


def _refusal(cls: type[Strategy], options: dict[str, str]) -> str:
    """Why options are refused; empty if they are not."""
    try:
        parse_options("adversary", cls, options)
    except ParameterError as error:
        return str(error)
    return ""


_FIRST_RUNS: dict[type[Any], tuple[Outcome, dict[str, object]]] = {}


def _first_run(suite: type[StrategyConformance]) -> tuple[Outcome, dict[str, object]]:
    """The first run of a suite's strategy, and the memory of its seat afterwards; made once."""
    if suite not in _FIRST_RUNS:
        memory: dict[str, object] = {}
        _FIRST_RUNS[suite] = suite().trial().run(memory=memory), memory
    return _FIRST_RUNS[suite]


def _check_claim(report: ClaimReport, lab: Laboratory) -> None:
    assert report.outcome == "claim", f"{report.outcome} {report.missing} {report.error}"
    assert set(report.head_ids) == set(lab.head_ids), f"it names {report.head_ids}"
    assert any(not name.startswith(NULL_PREFIX) for name in report.array_names), "nothing is claimed"
    shapes = _shapes(lab)
    for full_name, array in zip(report.array_names, report.arrays, strict=True):
        name = full_name.removeprefix(NULL_PREFIX)
        assert array.dtype == np.float32, f"{full_name} is {array.dtype}"
        assert array.shape == shapes[name], f"{full_name} has shape {array.shape}, expected {shapes[name]}"
        assert np.isfinite(array).all(), f"{full_name} holds NaN or infinite values"
        if name in ("images", "inputs"):
            assert _within(array), f"{full_name} leaves [-1, 1]: {array.min()} to {array.max()}"
    assert all(isinstance(text, str) for text in (*report.note_names, *report.note_values)), "a note is no text"


def _within(images: FloatArray) -> bool:
    return bool(np.abs(images).max(initial=0.0) <= 1 + _ROUNDING)


def _shapes(lab: Laboratory) -> dict[str, tuple[int, ...]]:
    """Shape of each array that a claim may hold."""
    victims, width, classes = len(lab.head_ids), lab.backbone.features, lab.truth.classes
    image = lab.truth.images.shape[1:]
    targets = lab.truth.aims.shape[1]
    challenge = lab.task.challenge
    shapes: dict[str, tuple[int, ...]] = {
        "images": (victims, targets, *image),
        "features": (victims, targets, width),
        "whitener": (width, width),
        "weights": (victims, classes, width),
        "biases": (victims, classes),
        "inputs": (victims, lab.evaluation.shape[1], *image),
    }
    if challenge.candidate_labels is not None:
        shapes["scores"] = challenge.candidate_labels.shape
    if challenge.property_values is not None:
        shapes["property_scores"] = (victims, len(challenge.property_values))
    return shapes


def _imports_of_truth(module: str, seen: set[str]) -> set[str]:
    """`module imports what` for every forbidden import of a module and those of its package that it imports."""
    seen.add(module)
    path = _file_of(module)
    if path is None:
        return set()
    package = module.partition(".")[0]
    near = "rhe_parties.attacks" if package == "rhe_parties" else package
    found: set[str] = set()
    with open(path, encoding="utf-8") as file:
        imported = _imports(ast.parse(file.read()), module)
    for name in imported:
        parts = name.split(".")
        if parts[0] == "rhe_parties" and len(parts) > 1 and parts[1] in FORBIDDEN:
            found.add(f"{module} imports {name}")
        elif (name == near or name.startswith(f"{near}.")) and name not in seen:
            found |= _imports_of_truth(name, seen)
    return found


def _file_of(module: str) -> str | None:
    held = sys.modules.get(module)
    if held is not None:
        return getattr(held, "__file__", None)
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    return spec.origin if spec is not None and spec.has_location else None


def _imports(tree: ast.AST, module: str) -> set[str]:
    """Absolute names of everything that is imported: modules, and `module.name` of what is taken from them."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            names.add(base)
            names.update(f"{base}.{alias.name}" for alias in node.names)
    return names
