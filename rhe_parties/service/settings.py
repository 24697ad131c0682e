"""Settings of a served party, with one precedence: flags, then the environment, then a TOML file, then the defaults.

`rhe serve model-host --config host.toml` reads the table of the file; the environment's names are those of the fields
with `RHE_HOST_` or `RHE_KEYS_` in front, such as `RHE_HOST_LISTEN`.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from rhe_parties.errors import DataError, ParameterError, unknown_name
from rhe_parties.messages.setups import MAX_GATHERED, MAX_HEADS, MAX_IMAGES, NOISE_CHECKS, NOISE_CLOSES
from rhe_parties.parties.release import parse_release

__all__ = ["HostSettings", "KeyHolderSettings", "ServiceSettings", "read_settings"]

S = TypeVar("S", bound="ServiceSettings")
LOG_FORMATS = ("json", "text")


class ServiceSettings(BaseSettings):
    """What both servers have."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True)

    listen: str = Field("127.0.0.1:7701", description="host:port to listen at; port 0 takes a free one")
    certificates: Path | None = Field(None, description="folder with this party's certificate, key and authority")
    plaintext: bool = Field(False, description="no certificates; on this machine's own addresses alone")
    deployment: str = Field("", description="name of the deployment; the certificate says it, plaintext needs it")
    revoked: Path | None = Field(None, description="list of serial numbers that are refused")
    request_seconds: float = Field(30.0, gt=0, description="how long a request may wait for its answer")
    requests_per_client: int = Field(64, ge=1, description="requests of one link that may wait at a time")
    links: int = Field(4096, ge=1, description="links open at a time")
    links_per_client: int = Field(256, ge=1, description="links of one party open at a time")
    grace_seconds: float = Field(10.0, ge=0, description="how long what was begun may take at the end")
    metrics: str = Field("", description="host:port where Prometheus may read metrics; empty: nowhere")
    log: str = Field("text", description="format of the log on standard error: json or text")

    @field_validator("log")
    @classmethod
    def _known_format(cls, value: str) -> str:
        if value not in LOG_FORMATS:
            raise ValueError(f"{value!r} is not allowed (allowed: {', '.join(LOG_FORMATS)})")
        return value

    @model_validator(mode="after")
    def _authenticated(self) -> ServiceSettings:
        if self.plaintext and self.certificates is not None:
            raise ValueError("certificates and plaintext exclude each other")
        if not self.plaintext and self.certificates is None:
            raise ValueError("certificates are needed (`rhe certificates new` makes them), or plaintext by name")
        if self.plaintext and not self.deployment:
            raise ValueError("plaintext needs the name of the deployment")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """See the module."""
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


class HostSettings(ServiceSettings):
    """`rhe serve model-host`."""

    model_config = SettingsConfigDict(env_prefix="RHE_HOST_")

    state: Path = Field(Path("host-state"), description="folder where installed heads are kept")
    backbone: str = Field("strokenet", description="frozen public backbone; see `rhe list backbones`")
    weights: str = Field("", description="file of weights, or random:SEED; empty: the backbone's own")
    device: str = Field("auto", description="cpu, cuda or auto")
    threads: int = Field(0, ge=0, description="threads for computing; 0: as many as there are cores")
    evaluator: str = Field("auto", description="who multiplies the encrypted head: auto, jit, torch, torch-fused, seal")
    gather_ms: float = Field(5.0, ge=0, description="how long a request may wait for others of the same head")
    gather_inputs: int = Field(MAX_GATHERED, ge=1, description="inputs held at a time while gathering")
    max_images: int = Field(MAX_IMAGES, ge=1, description="inputs in one request")
    max_heads: int = Field(MAX_HEADS, ge=1, description="heads installed at a time")
    features: bool = Field(True, description="whether callers may send features in place of images")


class KeyHolderSettings(ServiceSettings):
    """`rhe serve key-holder`."""

    model_config = SettingsConfigDict(env_prefix="RHE_KEYS_")

    listen: str = Field("127.0.0.1:7702", description="host:port to listen at; port 0 takes a free one")
    host: str = Field("127.0.0.1:7701", description="host:port of the model host")
    vault: Path = Field(Path("vault"), description="folder that holds the key")
    passphrase_file: Path | None = Field(None, description="file with the vault's passphrase")
    ledger: Path = Field(Path("ledger.sqlite"), description="file of audit log, budgets and used request ids")
    clients: dict[str, int] = Field(default_factory=dict, description="images of each head that a client may ask about")
    release: str = Field("classes", description="what is released of a decision; see `rhe run`")
    noise_check: str = Field(NOISE_CLOSES, description="what a reply noisier than honest ones does")
    query_budget: int = Field(0, ge=0, description="images decided in the deployment's whole life; 0: no limit")
    max_images: int = Field(MAX_IMAGES, ge=1, description="inputs in one request")

    @field_validator("noise_check")
    @classmethod
    def _known_check(cls, value: str) -> str:
        if value not in NOISE_CHECKS:
            raise ValueError(f"{value!r} is not allowed (allowed: {', '.join(NOISE_CHECKS)})")
        return value

    @field_validator("release")
    @classmethod
    def _known_release(cls, value: str) -> str:
        try:
            return parse_release(value).name
        except ParameterError as error:
            raise ValueError(str(error)) from error

    @field_validator("clients")
    @classmethod
    def _whole_budgets(cls, value: dict[str, int]) -> dict[str, int]:
        for name, budget in value.items():
            if budget < 0:
                raise ValueError(f"budget {budget} of {name!r} is not allowed (allowed: 0 for no limit, or above)")
        return value


def read_settings(cls: type[S], flags: dict[str, Any], file: Path | None = None) -> S:
    """Settings of one server.

    Args:
        cls: which.
        flags: what was given on the command line; None stands for not given.
        file: TOML.

    Raises:
        DataError: the file cannot be read or is no TOML.
        ParameterError: an unknown name, with the nearest known one, or a value that is not allowed.
    """

    class Loaded(cls):  # type: ignore[valid-type, misc]
        model_config = SettingsConfigDict(toml_file=file)

    if file is not None and not file.is_file():
        raise DataError(f"cannot read settings {str(file)!r}: no such file")
    try:
        loaded: S = Loaded(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        raise _explained(cls, error) from error
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"settings {str(file)!r} are no TOML: {error}") from error
    except (SettingsError, OSError, UnicodeDecodeError) as error:
        raise ParameterError(str(error)) from error
    return loaded


def _explained(cls: type[ServiceSettings], error: ValidationError) -> ParameterError:
    first = error.errors()[0]
    name = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        return unknown_name("setting", name, cls.model_fields)
    text = first["msg"].removeprefix("Value error, ")
    return ParameterError(f"{name} = {str(first['input'])[:80]!r}: {text}" if name else text)
