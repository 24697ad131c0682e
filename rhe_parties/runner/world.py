"""A world: the defences of one setting, and what else its name says that the adversary gets."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from rhe_parties.defences.base import DEFENCES, Defence, Fact, Fitted, PublicData
from rhe_parties.defences.chain import trainer_of
from rhe_parties.errors import ParameterError, unknown_name
from rhe_parties.he.plan import HeadPlan
from rhe_parties.he.scheme import NOISE_CHECKED, scheme_catalogue
from rhe_parties.messages.setups import NOISE_CHECKS, NOISE_CLOSES, DefenceSpec
from rhe_parties.model.adaptation import ADAPTABLE, MAX_RANK, Adaptation
from rhe_parties.model.head import Recipe
from rhe_parties.model.two_layer import BatchRecipe
from rhe_parties.parties.release import RAW_SCHEME, parse_release
from rhe_parties.registry import is_file_reference, parse_options, read_plugin_source, split_options
from rhe_parties.runner.parameters import Parameters
from rhe_parties.threat.model import KEY_HOLDER, LABORATORY, MODEL_HOST, ThreatModel

__all__ = ["AppliedDefence", "World", "resolve_worlds"]

_ADDITIONS = (
    "canaries=SHARE", "client", "decisions", "fine-tuned", "lora=RANK", "malicious", "noise-check=close|refuse|off",
    "release=POLICY", "rotated", "tag",
)  # fmt: skip
_LORA_RANK = 8

# What other worlds do: on the first reply noisier than an honest one the key holder closes the key.
_NOISE_TEXT = {
    "refuse": "the key holder refuses replies noisier than honest ones and goes on",
    "off": "the key holder decrypts replies whatever their noise",
}


@dataclass(frozen=True)
class AppliedDefence:
    """A defence with its options: as the world's name has it, its reference and plug-in text, and class."""

    text: str
    reference: str
    source: str
    cls: type[Defence]
    options: dict[str, str]
    fitted: Fitted = field(default_factory=dict)

    def build(self) -> Defence:
        """The defence itself, with what it learnt."""
        return self.cls(parse_options("defence", self.cls, self.options), self.fitted)

    def spec(self, fitted: bool) -> DefenceSpec:
        """As a set-up carries it, with or without what it learnt."""
        learnt = self.fitted if fitted else {}
        return DefenceSpec(
            self.reference, self.source, tuple(self.options), tuple(self.options.values()),
            tuple(learnt), tuple(learnt.values()),
        )  # fmt: skip


@dataclass(frozen=True)
class World:
    """One setting of a scenario.

    Attributes:
        name: as the user gave it.
        defences: in order; each acts at its own stage.
        scheme: of the encryption, "" without any.
        client: the key holder takes the adversary as a client.
        decisions: the adversary also sees what the key holder releases to others.
        release: the key holder's policy in this world, "" for the run's.
        malicious: the host that the adversary sits at answers the adversary's own requests as it likes.
        adaptation: how the backbone's last block is trained along with each head; it goes to the host in the clear.
        tag: encrypted heads have a secret last row by which the key holder knows replies of an honest host.
        canaries: inputs with known classes that go along with each image asked about; 0: none.
        rotated: the key is replaced after the decisions, and every head encrypted anew.
        noise_check: what the key holder does about a reply noisier than honest ones; see `KeyHolder`.
        plan: of the encrypted head.
        recipe: how heads are trained here.
        facts: about the defences in force.
        epsilon: that they guarantee; None without a guarantee.
    """

    name: str
    defences: tuple[AppliedDefence, ...]
    scheme: str = ""
    client: bool = False
    decisions: bool = False
    release: str = ""
    malicious: bool = False
    tag: bool = False
    rotated: bool = False
    canaries: float = 0.0
    noise_check: str = NOISE_CLOSES
    adaptation: Adaptation | None = None
    plan: HeadPlan | None = None
    recipe: Recipe | BatchRecipe | None = None
    facts: tuple[Fact, ...] = ()
    epsilon: float | None = None

    def threat_model(self, general: ThreatModel) -> ThreatModel:
        """The run's threat model as it is in this world."""
        general = dataclasses.replace(general, active=self.malicious)
        if not self.decisions:
            return general
        return dataclasses.replace(general, tapped_links=(*general.tapped_links, (KEY_HOLDER, LABORATORY)))

    @property
    def releasing(self) -> tuple[AppliedDefence, ...]:
        """The defences that act on what the key holder lets out."""
        return tuple(applied for applied in self.defences if applied.cls.acts_on_release())

    def trainer(self) -> Defence:
        """The defence that trains heads."""
        return trainer_of([applied.build() for applied in self.defences])

    def tuned(self, recipe: Recipe | BatchRecipe, public: PublicData) -> World:
        """The same world with its recipe made and its defences fitted, on public data alone.

        Raises:
            ParameterError: a defence whose options do not go with the recipe or the data.
        """
        built = [applied.build() for applied in self.defences]
        for defence in built:
            recipe = defence.recipe(recipe, public)
        if self.adaptation is not None and isinstance(recipe, Recipe):
            recipe = dataclasses.replace(recipe, adaptation=self.adaptation)
        fitted = tuple(
            dataclasses.replace(applied, fitted=defence.fit(public, recipe))
            for applied, defence in zip(self.defences, built, strict=True)
        )
        facts = tuple(fact for applied in fitted for fact in applied.build().facts(recipe, public.set_size))
        if self.adaptation is not None:
            facts = (*facts, ("last block", self.adaptation.describe()))
        spent = [found for defence in built if (found := defence.epsilon(recipe, public.set_size)) is not None]
        return dataclasses.replace(self, recipe=recipe, defences=fitted, facts=facts, epsilon=min(spent, default=None))

    def describe(self, parameters: Parameters) -> str:
        """The defences in words, and what this world lets the adversary have besides."""
        said = [applied.cls.summary for applied in self.defences]
        released = parse_release(self.release or parameters.release).describe().partition(",")[0]
        if self.client:
            budget = parameters.client_budget
            limit = f"at most {budget:,} images of each head" if budget else "without limit"
            said.append(
                f"the adversary is a client of the key holder and gets {released} for images of its own, {limit}"
            )
        if self.decisions:
            said.append(f"the adversary sees what the key holder releases to others: {released}")
        if self.malicious:
            said.append("the host answers the adversary's own requests with ciphertexts of the adversary's choice")
        if self.adaptation is not None:
            said.append("the backbone's last block is adapted along with each head and runs in the clear at the host")
        if self.tag:
            said.append("a secret linear tag in every head shows the key holder replies that no honest host computes")
        if self.canaries:
            known = "inputs whose class owner and key holder know"
            said.append(f"{self.canaries:g} canaries for each image asked about: {known}")
        if self.rotated:
            said.append("the key is replaced after the decisions, and every head encrypted anew")
        if self.noise_check != NOISE_CLOSES:
            said.append(_NOISE_TEXT[self.noise_check])
        return "; ".join(said)


def resolve_worlds(parameters: Parameters) -> list[World]:
    """The worlds by name; nothing is loaded but the defences.

    Raises:
        ParameterError, PluginError: unknown defence, option, scheme or addition, or a plug-in that does not load.
    """
    schemes = list(scheme_catalogue())
    if parameters.scheme not in schemes:
        raise unknown_name("scheme", parameters.scheme, schemes)
    worlds = [_world(name, parameters.scheme, schemes) for name in parameters.worlds]
    for world in worlds:
        _check(world, parameters)
    return worlds


def _check(world: World, parameters: Parameters) -> None:
    """Refuse additions that a world cannot have."""
    if world.malicious and (not world.scheme or MODEL_HOST not in parameters.corrupted):
        raise ParameterError(
            f"world {world.name!r}: +malicious is not allowed without encryption, nor without model-host in corrupted"
        )
    if world.tag and world.scheme != "bfv":
        raise ParameterError(f"world {world.name!r}: +tag is not allowed (allowed: with scheme bfv)")
    if world.rotated and not world.scheme:
        raise ParameterError(f"world {world.name!r}: +rotated is not allowed without encryption: there is no key")
    if world.noise_check != NOISE_CLOSES and world.scheme != NOISE_CHECKED:
        raise ParameterError(
            f"world {world.name!r}: +noise-check={world.noise_check} is not allowed (allowed: with scheme "
            f"{NOISE_CHECKED})"
        )
    if world.adaptation is not None:
        _check_adaptation(world, parameters)
    policy = parse_release(world.release or parameters.release)
    if policy.raw and world.scheme != RAW_SCHEME:
        raise ParameterError(
            f"world {world.name!r}: release={policy.name!r} is not allowed: only scheme {RAW_SCHEME!r} decrypts to "
            f"more than logits (such as rhe:{RAW_SCHEME}+client+release=raw)"
        )


def _check_adaptation(world: World, parameters: Parameters) -> None:
    """Refuse an adapted block where nothing is there to adapt, or nobody trains it."""
    if parameters.backbone not in ADAPTABLE:
        raise ParameterError(
            f"world {world.name!r} is not allowed with backbone={parameters.backbone!r}: its last block cannot be "
            f"adapted (allowed: {', '.join(ADAPTABLE)})"
        )
    if parameters.hidden:
        raise ParameterError(
            f"world {world.name!r} is not allowed with hidden={parameters.hidden}: the last block is adapted along "
            "with linear heads alone, hidden=0"
        )
    for applied in world.defences:
        if applied.cls.trains():
            raise ParameterError(
                f"world {world.name!r}: defence {applied.reference!r} trains heads alone and does not go with an "
                "adapted last block (allowed: defences that leave the training as it is, such as none and rhe)"
            )


def _adaptation(addition: str, world: str) -> Adaptation:
    """The adaptation that an addition `fine-tuned`, `lora` or `lora=RANK` asks for."""
    key, equals, value = addition.partition("=")
    if key == "fine-tuned" and not equals:
        return Adaptation.whole()
    if key == "lora" and not equals:
        return Adaptation.factors(_LORA_RANK)
    if key == "lora" and value.isdecimal() and 1 <= int(value) <= MAX_RANK:
        return Adaptation.factors(int(value))
    raise ParameterError(
        f"world {world!r}: +{addition} is not allowed (allowed: +fine-tuned, +lora, +lora=1 to {MAX_RANK})"
    )


def _world(name: str, usual: str, schemes: list[str]) -> World:
    """One world by its name: `DEFENCE[:SCHEME][@key=value]`, and after plus signs more defences and additions."""
    first, *more = name.split("+")
    applied, scheme = _defence(first, name)
    world = World(name, (applied,))
    for addition in more:
        key, equals, value = addition.partition("=")
        if addition == "client":
            world = dataclasses.replace(world, client=True)
        elif addition == "decisions":
            world = dataclasses.replace(world, decisions=True)
        elif addition == "malicious":
            world = dataclasses.replace(world, malicious=True)
        elif addition == "tag":
            world = dataclasses.replace(world, tag=True)
        elif addition == "rotated":
            world = dataclasses.replace(world, rotated=True)
        elif key == "canaries" and equals:
            world = dataclasses.replace(world, canaries=_share(value, name))
        elif key == "noise-check" and equals:
            if value not in NOISE_CHECKS:
                raise unknown_name("noise-check", value, NOISE_CHECKS)
            world = dataclasses.replace(world, noise_check=value)
        elif key in ("fine-tuned", "lora"):
            world = dataclasses.replace(world, adaptation=_adaptation(addition, name))
        elif key == "release" and equals:
            world = dataclasses.replace(world, release=parse_release(value).name)
        else:
            applied, other = _defence(addition, name)
            scheme = other or scheme
            world = dataclasses.replace(world, defences=(*world.defences, applied))
    encrypts = any(applied.cls.encrypts for applied in world.defences)
    if scheme and not encrypts:
        raise ParameterError(f"world {name!r}: no defence in it encrypts anything, so it takes no scheme")
    if scheme and scheme not in schemes:
        raise unknown_name("scheme", scheme, schemes)
    world.trainer()
    return dataclasses.replace(world, scheme=(scheme or usual) if encrypts else "")


def _share(text: str, world: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise ParameterError(f"world {world!r}: canaries={text} is not allowed (allowed: above 0, at most 1)")
    return share


def _defence(text: str, world: str) -> tuple[AppliedDefence, str]:
    """A defence of a world's name, and the scheme that is given with it."""
    full, options = split_options(text)
    reference, scheme = full, ""
    if not is_file_reference(full):
        reference, colon, scheme = full.partition(":")
        if reference not in DEFENCES.names():
            if text == world.partition("+")[0]:
                raise unknown_name("defence", reference, DEFENCES.names())
            raise unknown_name(f"addition to world {world!r}", reference, [*_ADDITIONS, *DEFENCES.names()])
        if colon and not scheme:
            raise ParameterError(f"world {world!r}: no scheme after the colon")
    source = read_plugin_source(reference)
    applied = AppliedDefence(text, reference, source, DEFENCES.load(reference, source), options)
    applied.build()
    return applied, scheme
