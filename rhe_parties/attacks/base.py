"""What a strategy is: needs, one run on one view, a claim.

A simple strategy is one class in one file::

    class Mine(Strategy):
        name, summary, source = "mine", "reads the mean weight", "this file"
        needs = frozenset({Observation.PLAIN_HEAD})

        def attack(self, view, prior, context):
            heads = view.plain_heads()
            ...
            return Claim(head_ids=tuple(heads), images=images)

The laboratory decides from the view's content whether the needs are met; if not, the outcome is `Blocked` and
`attack` is never called. A strategy that can also try its luck on ciphertexts overrides `attack_ciphertexts`.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol

from rhe_parties.attacks.pools import Pool, SerialPool
from rhe_parties.errors import ParameterError
from rhe_parties.messages.adversarial import Challenge
from rhe_parties.messages.recipes import RecipeSpec
from rhe_parties.model.backbone import Backbone
from rhe_parties.model.head import Recipe
from rhe_parties.model.two_layer import BatchRecipe
from rhe_parties.registry import Registry
from rhe_parties.threat.view import AdversaryView, Observation
from rhe_parties.types import FloatArray, IntArray, UInt8Array

__all__ = [
    "ADVERSARIES",
    "AS_IS",
    "CIPHERTEXT",
    "Answers",
    "AttackContext",
    "Blocked",
    "Challenge",
    "Claim",
    "FinerLabels",
    "HostAnswers",
    "HostOracle",
    "Oracle",
    "PriorKnowledge",
    "Strategy",
    "challenge_holds",
]

AS_IS = "as-is"
CIPHERTEXT = "ciphertext"


class FinerLabels(NamedTuple):
    """What training sets are balanced over where that is finer than the classes: the ten digits of odd and even.

    `labels` int64 [n] of the auxiliary images in 0..classes-1, numbered in the order in which training sets hold them.
    """

    labels: IntArray
    classes: int


@dataclass(frozen=True)
class PriorKnowledge:
    """What the adversary knows before it sees anything.

    `auxiliary_images` uint8 [n, C, H, W] and `auxiliary_labels` int64 [n] are of the private data's kind, and none of
    them is private. `recipe` is that of linear heads; where heads have a hidden layer, `two_layer` is theirs.
    """

    backbone: Backbone
    recipe: Recipe
    classes: int
    images_per_class: int
    auxiliary_images: UInt8Array
    auxiliary_labels: IntArray
    two_layer: BatchRecipe | None = None
    finer: FinerLabels | None = None
    # Not for who makes or changes one: features of other images would be others.
    _extracted: list[FloatArray] = field(default_factory=list, init=False, compare=False, repr=False)

    @property
    def balance(self) -> tuple[IntArray, int, int]:
        """What training sets are balanced over: labels [n] of the auxiliary images, classes, images of each."""
        if self.finer is None:
            return self.auxiliary_labels, self.classes, self.images_per_class
        return *self.finer, self.classes * self.images_per_class // self.finer.classes

    def with_recipe(self, recipe: RecipeSpec) -> PriorKnowledge:
        """The same knowledge where heads are trained by another recipe; features are not extracted again."""
        changed = dataclasses.replace(self, recipe=recipe.linear(), two_layer=recipe.two_layer())
        object.__setattr__(changed, "_extracted", self._extracted)
        return changed

    @property
    def auxiliary_features(self) -> FloatArray:
        """Backbone features [n, D] of the auxiliary images, extracted once per seat."""
        if not self._extracted:
            self._extracted.append(self.backbone.extract(self.auxiliary_images))
        return self._extracted[0]


class Answers(NamedTuple):
    """What the key holder says of B images: classes int64 [B], and logits float32 [B, K] where they are released."""

    classes: IntArray
    logits: FloatArray


class HostAnswers(NamedTuple):
    """What comes of B images that go through a host in the adversary's hands.

    `classes` int64 [B]; `logits` float32 [B, K] and `raw` float64 [B, K, slots], all decoded values, where they are
    released, else empty; `ciphertexts` that the host replied with.
    """

    classes: IntArray
    logits: FloatArray
    raw: FloatArray
    ciphertexts: tuple[bytes, ...]


class HostOracle(Protocol):
    """The key holder asked as a client while the host that answers it is in the adversary's hands."""

    def ask_through_host(self, head_id: str, images: UInt8Array, ciphertexts: tuple[bytes, ...] = ()) -> HostAnswers:
        """Decisions on images uint8 [B, C, H, W] in one request, and the host's reply to it.

        Args:
            ciphertexts: what the host shall reply in place of what it computes; empty: it answers as ever.

        Raises:
            BudgetError: the budget does not cover all of them.
            ProtocolError: the key holder or the host refused; REFUSED where the adversary may not have replies
                replaced.
        """
        ...


class Oracle(Protocol):
    """The key holder's answers to images of the adversary's own choice; it counts, and it enforces the budget.

    Attributes:
        budget: images per head; 0 is no limit.
        release: what comes back: `classes` or `logits`.
    """

    budget: int
    release: str

    def ask(self, head_id: str, images: UInt8Array) -> Answers:
        """Decisions of a head on images uint8 [B, C, H, W], B at least 1; long ones travel in several requests.

        Raises:
            BudgetError: the budget does not cover all of them; none of them is decided.
            ProtocolError: the key holder or the host refused for another reason.
        """
        ...

    def used(self, head_id: str) -> int:
        """Images decided for this head so far, as the key holder counts."""
        ...


@dataclass
class AttackContext:
    """What a strategy may use besides view and prior knowledge.

    Attributes:
        seed: root of the strategy's random streams (`rhe_parties.rng`).
        victims: ids of the heads to make a claim about, in order; that they exist is no secret.
        pool: for work that falls into independent pieces; cut it the same way whatever the pool's size.
        progress: call with (fraction of the work done in [0, 1], what is being done).
        oracle: answers to images of the strategy's own choice; None unless the key holder admitted it as a client.
        host: the same where the adversary also holds the host; None unless it is such a client.
        challenge: what the task hands over beside the view.
        defences: the defences in force by name and options, as the world's name has them (`rounding@digits=1`).
        memory: survives from one world to the next at the same seat: keep what depends on prior knowledge alone.
    """

    seed: int
    victims: tuple[str, ...] = ()
    pool: Pool = field(default_factory=SerialPool)
    progress: Callable[[float, str], None] = lambda _fraction, _text: None
    memory: dict[str, Any] = field(default_factory=dict)
    oracle: Oracle | None = None
    host: HostOracle | None = None
    challenge: Challenge = field(default_factory=Challenge)
    defences: tuple[str, ...] = ()

    def require_host(self) -> HostOracle:
        """The host, for a strategy that has it reply as it likes.

        Raises:
            ParameterError: there is none.
        """
        if self.host is None:
            raise ParameterError("no host is in the adversary's hands (a world with +client+malicious has one)")
        return self.host

    def require_oracle(self) -> Oracle:
        """The oracle, for a strategy that lives by asking.

        Raises:
            ParameterError: there is none, or there are no victims to ask about.
        """
        if self.oracle is None:
            raise ParameterError("there is no key holder that answers (a world with +client has one)")
        if not self.victims:
            raise ParameterError("there are no victims: which heads to ask about must be known")
        return self.oracle


@dataclass(frozen=True)
class Claim:
    """What a strategy says about the private data; leave out what it does not claim.

    Attributes:
        head_ids: the V victim heads, in the order of the arrays.
        images: [V, N, C, H, W] in [-1, 1], the claimed training images, ordered by class.
        features: [V, N, D], their claimed backbone features.
        whitener: [D, D]; the adversary's own distance between features a and b is |whitener (a - b)|.
        weights, biases: [V, K, D] and [V, K], the claimed heads; [V, K, H] where a hidden layer is claimed too.
        hidden_weights, hidden_biases: [V, H, D] and [V, H], the claimed hidden layers.
        activation: of the claimed hidden layers, `relu` or `square`, whatever the heads' own; empty without any.
        scores: [V, M], how much rather each candidate of the challenge was in its head's training set than not.
        property_scores: [V, P], how much rather a training set has each of the challenge's property values.
        inputs: [V, B, C, H, W] in [-1, 1], claims about the images that each head decided on, in that order.
        null: what the same strategy made of an input that holds nothing, such as random heads or random bytes.
        notes: short facts for the report (name to text), such as a regressor's measured skill.
    """

    head_ids: tuple[str, ...]
    images: FloatArray | None = None
    features: FloatArray | None = None
    whitener: FloatArray | None = None
    weights: FloatArray | None = None
    biases: FloatArray | None = None
    hidden_weights: FloatArray | None = None
    hidden_biases: FloatArray | None = None
    activation: str = ""
    scores: FloatArray | None = None
    property_scores: FloatArray | None = None
    inputs: FloatArray | None = None
    null: Claim | None = None
    notes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Blocked:
    """The strategy could not start: the view lacks `missing`."""

    missing: tuple[str, ...]


def challenge_holds(challenge: Challenge) -> frozenset[Observation]:
    """What a challenge adds to a view, in the words in which strategies state their needs."""
    held = {
        Observation.CANDIDATES: challenge.candidates is not None and challenge.candidate_labels is not None,
        Observation.KNOWN_IMAGES: challenge.known_images is not None and challenge.target_labels is not None,
        Observation.INITIAL_WEIGHTS: challenge.initial_weights is not None,
        Observation.PROPERTY: challenge.property_values is not None,
    }
    return frozenset(what for what, there in held.items() if there)


class Strategy(ABC):
    """An adversary's algorithm. Subclasses set the class attributes and implement `attack`."""

    name: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    source: ClassVar[str] = ""
    #: What it is after: reconstruction, membership, property, extraction, inversion, keys, active, or a word of your
    #: own. The report groups adversaries by it; without, by the statistics that their claims give.
    goal: ClassVar[str] = ""
    needs: ClassVar[frozenset[Observation]] = frozenset()
    #: What `attack_ciphertexts` needs; empty when the strategy has no such variant.
    ciphertext_needs: ClassVar[frozenset[Observation]] = frozenset()
    #: What `attack_two_layer` needs where heads have a hidden layer; None: the strategy knows linear heads alone.
    two_layer_needs: ClassVar[frozenset[Observation] | None] = None

    @dataclass(frozen=True)
    class Options:
        """Parameters of the strategy, set with `-p NAME.key=value`; override with a frozen dataclass of your own."""

    def __init__(self, options: Any = None) -> None:
        self.options: Any = self.Options() if options is None else options

    @abstractmethod
    def attack(self, view: AdversaryView, prior: PriorKnowledge, context: AttackContext) -> Claim | Blocked:
        """Turn a view that holds `needs` into a claim; `Blocked` where its content still lacks something."""

    def attack_two_layer(self, view: AdversaryView, prior: PriorKnowledge, context: AttackContext) -> Claim | Blocked:
        """The same where heads have a hidden layer; `view` holds `two_layer_needs`."""
        return self.attack(view, prior, context)

    def attack_ciphertexts(self, view: AdversaryView, prior: PriorKnowledge, context: AttackContext) -> Claim:
        """The same goal from the ciphertexts that the host really holds.

        Raises:
            ParameterError: the strategy has no such variant (`ciphertext_needs` is empty).
        """
        del view, prior, context
        raise ParameterError(f"adversary {self.name!r} has no ciphertext variant")


ADVERSARIES: Registry[Strategy] = Registry("adversary", "rhe_parties.adversaries", Strategy)  # type: ignore[type-abstract]
