"""Settings of the servers: one precedence, and one line for whatever is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from rhe_parties.cli.main import main
from rhe_parties.errors import DataError, ParameterError
from rhe_parties.service.settings import HostSettings, KeyHolderSettings, read_settings

PLAIN = {"plaintext": True, "deployment": "lab"}


def test_flags_before_environment_before_file_before_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "host.toml"
    file.write_text('listen = "127.0.0.1:1"\ngather_ms = 7.0\nbackbone = "efficientnet_b0"\n')
    monkeypatch.setenv("RHE_HOST_LISTEN", "127.0.0.1:2")
    monkeypatch.setenv("RHE_HOST_GATHER_MS", "8")
    found = read_settings(HostSettings, {**PLAIN, "listen": "127.0.0.1:3", "gather_ms": None}, file)
    assert (found.listen, found.gather_ms, found.backbone, found.log) == ("127.0.0.1:3", 8.0, "efficientnet_b0", "text")
    # The key holder's environment is its own.
    assert read_settings(KeyHolderSettings, PLAIN).listen == "127.0.0.1:7702"


def test_clients_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "keys.toml"
    file.write_text("[clients]\nalice = 10\n")
    assert read_settings(KeyHolderSettings, PLAIN, file).clients == {"alice": 10}
    monkeypatch.setenv("RHE_KEYS_CLIENTS", '{"bob": 0}')
    assert "bob" in read_settings(KeyHolderSettings, PLAIN, file).clients


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({}, "certificates are needed"),
        ({"plaintext": True}, "plaintext needs the name of the deployment"),
        ({**PLAIN, "certificates": "x"}, "exclude each other"),
        ({**PLAIN, "gather_ms": -1.0}, "gather_ms = '-1.0': Input should be greater than or equal to 0"),
        ({**PLAIN, "log": "xml"}, "log = 'xml': 'xml' is not allowed (allowed: json, text)"),
        ({**PLAIN, "links": 0}, "links = '0'"),
    ],
)
def test_what_is_not_allowed_is_named(given: dict[str, object], text: str) -> None:
    with pytest.raises(ParameterError) as error:
        read_settings(HostSettings, given)
    assert text in str(error.value)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"noise_check": "maybe"}, "allowed: close, refuse, off"),
        ({"release": "everything"}, "release = 'everything'"),
        ({"clients": {"alice": -1}}, "budget -1 of 'alice'"),
    ],
)
def test_what_a_key_holder_does_not_take(given: dict[str, object], text: str) -> None:
    with pytest.raises(ParameterError) as error:
        read_settings(KeyHolderSettings, {**PLAIN, **given})
    assert text in str(error.value)


def test_files_that_will_not_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_settings(HostSettings, PLAIN, tmp_path / "nowhere.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("listen = ")
    with pytest.raises(DataError, match="no TOML"):
        read_settings(HostSettings, PLAIN, broken)
    unknown = tmp_path / "unknown.toml"
    unknown.write_text("listne = 'x'\n")
    with pytest.raises(ParameterError, match=r"unknown setting 'listne'; did you mean 'listen'\?"):
        read_settings(HostSettings, PLAIN, unknown)
    monkeypatch.setenv("RHE_KEYS_CLIENTS", "alice")
    with pytest.raises(ParameterError, match="clients"):
        read_settings(KeyHolderSettings, PLAIN)


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (["serve", "model-host"], "certificates are needed"),
        (["serve", "model-host", "--plaintext", "--deployment", "Lab!"], "deployment name 'Lab!' is not allowed"),
        (["serve", "model-host", "--certificates", "nowhere"], "nowhere"),
        (["serve", "key-holder", "--plaintext", "--deployment", "lab", "--client", "alice"], "NAME=BUDGET"),
        (["serve", "key-holder", "--plaintext", "--deployment", "lab", "--client", "A!=3"], "client name"),
    ],
)
def test_a_mistake_is_one_line(
    command: list[str], text: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(command)
    assert stop.value.code == 2
    shown = capsys.readouterr().err
    assert text in shown
    assert len(shown.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_plaintext_stays_on_this_machine(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["serve", "model-host", "--plaintext", "--deployment", "lab", "--listen", "0.0.0.0:7701"])
    assert stop.value.code == 2
    assert "plaintext is not allowed at '0.0.0.0:7701'" in capsys.readouterr().err
