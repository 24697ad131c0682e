"""The parameters of a scenario: typed, complete, and refused with the nearest valid name when one is unknown."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from rhe_parties.data.domains import domain_catalogue
from rhe_parties.errors import DataError, ParameterError, unknown_name
from rhe_parties.he.evaluators import BACKENDS
from rhe_parties.model.activations import ACTIVATIONS
from rhe_parties.parties.release import parse_release
from rhe_parties.threat.model import ADVERSARY, PARTIES
from rhe_parties.transport import TRANSPORTS

__all__ = ["BASELINE", "TASKS", "Parameters", "parse_assignments", "read_parameter_file", "resolve_parameters"]

#: What heads may be trained to tell apart: the dataset's classes, or whether a class's number is odd.
LABELS = ("classes", "parity")
#: In which worlds attacks on ciphertexts run.
CIPHERTEXTS = ("always", "once")
#: What an adversary may be asked to find out; see `rhe_parties.runner.tasks`.
TASKS = ("reconstruction", "membership", "property", "informed", "inversion")
# Always run: without the claim of an adversary that saw nothing, no other number means anything.
BASELINE = "prior-only"


def _split(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _json(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise ValueError(f"it must be JSON ({error})") from error


def _numbers(value: Any) -> Any:
    return tuple(float(part) for part in _split(value)) if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_split)]
Numbers = Annotated[tuple[float, ...], BeforeValidator(_numbers)]
Resources = Annotated[dict[str, dict[str, float]], BeforeValidator(_json)]


class Parameters(BaseModel):
    """Everything that a scenario can be told with `-p key=value`, from Python or from a file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: str = Field("digits", description="digits, mnist, cifar10 or imagefolder:PATH")
    data_root: Path | None = Field(None, description="folder of the datasets, torchvision's layout")
    image_size: int = Field(32, ge=8, le=1024, description="side of the images in pixels")
    backbone: str = Field("strokenet", description="strokenet or a torchvision model")
    weights: str = Field("", description="file of backbone weights; empty for the default, random:SEED for none")
    labels: str = Field(
        "classes", description="what heads tell apart: classes, or parity: odd and even numbers of classes"
    )
    images_per_class: int = Field(1, ge=1, description="private images per class of one head; classes as in dataset")
    hidden: int = Field(0, ge=0, le=512, description="units of the head's hidden layer; 0 is a linear head")
    activation: str = Field("relu", description="of the hidden layer: relu or square")
    victims: int = Field(50, ge=1, description="victim heads, each on private images of its own")
    evaluation_images: int = Field(25, ge=1, description="images that each head decides on, for accuracy")
    auxiliary_images: int = Field(20_000, ge=1, description="most images that the adversary is given")
    auxiliary_mixture: Names = Field(
        (), description="foreign images mixed into the adversary's, which then have no labels: strokes, textures, …"
    )
    task: str = Field("reconstruction", description="reconstruction, membership, property, informed or inversion")
    property: str = Field("class-share:0", description="of task=property: class-share:K, presence:K or thickness")
    property_values: Numbers = Field((), description="values that the property may take; empty for its usual two")
    worlds: Names = Field(
        ("none", "rhe"),
        description="defences to compare: NAME[:SCHEME][@key=value], more of them after plus signs, and additions: "
        "+client: the adversary may ask the key holder, +decisions: it also sees what the key holder releases to "
        "others, +release=POLICY: what that is, +malicious: the host answers its requests as it likes, +tag, "
        "+canaries=SHARE and +noise-check=close|refuse|off: by what the key holder knows such a host and what it does, "
        "+rotated: the key is replaced after the decisions, +fine-tuned and +lora=RANK: the backbone's last block is "
        "trained along with each head and runs in the clear",
    )
    adversary: Names = Field(("head-readout", "span-inversion"), description="strategies, besides prior-only")
    ciphertexts: str = Field(
        "always",
        description="where attacks also run on ciphertexts: always, or once: in the first world of each scheme, as "
        "what the host holds of heads is the same in the others",
    )
    scheme: str = Field("bfv", description="scheme of the encrypted head in the world rhe")
    feature_norm: float | None = Field(
        None, ge=2.0**-20, le=2.0**20, description="public bound of a feature vector's length; None calibrates it"
    )
    logit_error: float | None = Field(
        None, gt=0, le=1, description="relative error of encrypted logits that is still fine; None is 0.005 or the best"
    )
    evaluator: str = Field(
        "auto", description="who multiplies by the encrypted head: auto, jit, torch, torch-fused, seal"
    )
    batch: int = Field(1, ge=1, le=1000, description="inputs per encrypted request that the layout is planned for")
    learning_rate: float | None = Field(None, gt=0, description="of the head; None is the paper's recipe")
    weight_decay: float | None = Field(None, ge=0, description="of the head; None is the paper's recipe")
    init_std: float | None = Field(None, gt=0, description="of the head; None is the paper's recipe")
    epochs: int | None = Field(None, ge=1, description="of the head; None is the paper's recipe")
    corrupted: Names = Field(("model-host",), description="parties that the adversary sits at")
    query_budget: int = Field(0, ge=0, description="images the key holder decides in a world; 0 is no limit")
    client_budget: int = Field(
        60_000, ge=0, description="images of each head that it decides for the adversary as a client; 0 is no limit"
    )
    initial_weights: bool = Field(False, description="whether the adversary knows the heads' weights before training")
    release: str = Field("classes", description="what the key holder lets out: classes, logits or, under ckks, raw")
    gather_delay_ms: float = Field(
        0.0, ge=0, le=60_000, allow_inf_nan=False, description="how long the host may gather requests for one head"
    )
    seed: int = Field(0, ge=0, lt=2**63, description="root of every random stream but the encryption's")
    transport: str = Field(
        "ray", description="ray (one actor per party), grpc (one process per party) or local (one process)"
    )
    address: str | None = Field(None, description="a running Ray cluster to join")
    workers: int = Field(1, ge=1, le=4096, description="Ray tasks for a strategy's independent pieces")
    threads: int = Field(2, ge=1, le=1024, description="threads of numerical code in each process")
    device: str = Field("auto", description="auto, cpu or cuda, for backbone and strategies")
    resources: Resources = Field(default_factory=dict, description='per party, as {"model-host": {"num_gpus": 0.5}}')
    party_timeout: float = Field(
        600.0, gt=0, description="seconds a silent party may take over one message; one that died is noticed at once"
    )
    attack_timeout: float = Field(7200.0, gt=0, description="seconds a strategy may take")
    examples: int = Field(4, ge=0, le=50, description="victim heads shown as pictures in the report")

    #: Options of strategies, from keys of the form NAME.key.
    options: dict[str, dict[str, str]] = Field(default_factory=dict, description="see NAME.key")


def parse_assignments(items: list[str]) -> dict[str, str]:
    """`["a=1", "b.c=2"]` as a dictionary.

    Raises:
        ParameterError: an item without `=`, without a key, or given twice.
    """
    given: dict[str, str] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise ParameterError(f"-p {item!r} is not of the form key=value")
        if key in given:
            raise ParameterError(f"parameter {key!r} is given twice")
        given[key] = value
    return given


def read_parameter_file(path: Path) -> dict[str, Any]:
    """Parameters from a `.json` or `.toml` file, or those of a record.

    Raises:
        DataError: missing or unreadable file.
        ParameterError: no table of parameters in it.
    """
    try:
        text = path.read_text(encoding="utf-8")
        raw = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"cannot read parameters from {str(path)!r}: {error}") from error
    if isinstance(raw, dict) and "parameters_given" in raw and "worlds" in raw:
        raw = raw["parameters_given"]
    if not isinstance(raw, dict):
        raise ParameterError(f"{str(path)!r} must hold one table of parameters")
    return raw


def resolve_parameters(*layers: Mapping[str, Any]) -> Parameters:
    """Join layers (later ones win) into checked, complete parameters.

    Raises:
        ParameterError: unknown key (the nearest is named), or a value that is not allowed.
    """
    merged: dict[str, Any] = {}
    options: dict[str, dict[str, str]] = {}
    for layer in layers:
        for key, value in layer.items():
            name, dot, option = key.rpartition(".")
            if dot and key not in Parameters.model_fields:
                options.setdefault(name, {})[option] = str(value)
            elif key == "options" and isinstance(value, Mapping):
                for strategy, pairs in value.items():
                    options.setdefault(strategy, {}).update({k: str(v) for k, v in pairs.items()})
            else:
                merged[key] = value
    known = [name for name in Parameters.model_fields if name != "options"]
    for key in merged:
        if key not in known:
            raise unknown_name("parameter", key, known)
    try:
        parameters = Parameters(**merged, options=options)
    except ValidationError as error:
        raise _refused(error) from error
    _check_names(parameters)
    return parameters


def _refused(error: ValidationError) -> ParameterError:
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"]))
    return ParameterError(f"parameter {key}={first['input']!r} is not allowed: {first['msg']}")


def _check_names(parameters: Parameters) -> None:
    if parameters.transport not in TRANSPORTS:
        raise unknown_name("transport", parameters.transport, TRANSPORTS)
    if parameters.task not in TASKS:
        raise unknown_name("task", parameters.task, TASKS)
    if parameters.device not in ("auto", "cpu", "cuda"):
        raise unknown_name("device", parameters.device, ("auto", "cpu", "cuda"))
    if parameters.ciphertexts not in CIPHERTEXTS:
        raise unknown_name("ciphertexts", parameters.ciphertexts, CIPHERTEXTS)
    if parameters.labels not in LABELS:
        raise unknown_name("labels", parameters.labels, LABELS)
    if parameters.activation not in ACTIVATIONS:
        raise unknown_name("activation", parameters.activation, ACTIVATIONS)
    if len(parameters.worlds) < 2:
        raise ParameterError(
            f"worlds={','.join(parameters.worlds)!r}: a scenario compares at least two, such as none,rhe"
        )
    if len(set(parameters.worlds)) != len(parameters.worlds):
        raise ParameterError(f"worlds={','.join(parameters.worlds)!r} names one world twice")
    parse_release(parameters.release)
    if parameters.evaluator not in (*BACKENDS, "auto"):
        raise unknown_name("evaluator", parameters.evaluator, (*BACKENDS, "auto"))
    if parameters.gather_delay_ms > 500 * parameters.party_timeout:
        raise ParameterError(
            f"gather_delay_ms={parameters.gather_delay_ms:g} is not allowed: at most half of party_timeout, "
            f"{500 * parameters.party_timeout:g} ms"
        )
    domains = [name for name, _ in domain_catalogue()]
    for name in parameters.auxiliary_mixture:
        if name not in domains:
            raise unknown_name("domain in auxiliary_mixture", name, domains)
    for party in parameters.resources:
        if party not in (*PARTIES, ADVERSARY):
            raise unknown_name("party in resources", party, (*PARTIES, ADVERSARY))
    if parameters.address is not None and parameters.transport != "ray":
        raise ParameterError(f"address={parameters.address!r} needs transport=ray, not {parameters.transport!r}")
    used = {BASELINE, *parameters.adversary} | {ref.rpartition(":")[2] for ref in parameters.adversary}
    for name in parameters.options:
        if name not in used:
            close = difflib.get_close_matches(name, [*used, *Parameters.model_fields], n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ParameterError(f"options for {name!r}, which is no adversary of this run{hint}")
