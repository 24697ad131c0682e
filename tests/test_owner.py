"""The owner's and the client's commands: heads trained, encrypted, served over real links, asked and taken back."""

from __future__ import annotations

import asyncio
import json
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rhe_parties.cli.main import main
from rhe_parties.data.imagefolder import read_folder
from rhe_parties.errors import DataError, MessageError, ParameterError, ProtocolError
from rhe_parties.he.plan import HeadPlan
from rhe_parties.he.planner import plan_head
from rhe_parties.he.scheme import make_custody
from rhe_parties.messages.alone import payload_from, payload_to
from rhe_parties.messages.payloads import AdmitClient, ClientAdmitted, EncryptedHead, HeadNotice, RevokeHead
from rhe_parties.messages.public import export_public
from rhe_parties.model.backbone import load_backbone
from rhe_parties.model.head import Recipe, train_head
from rhe_parties.service.authority import issue, new_deployment, revoke
from rhe_parties.service.grpc_errands import Access, install
from rhe_parties.service.head_files import load_card, load_encrypted
from rhe_parties.service.identity import OPERATOR, Identity
from rhe_parties.service.owner import encrypt, load_trained, read_images, train
from rhe_parties.testing.world import write_digits
from rhe_parties.threat.model import DATA_OWNER, KEY_HOLDER
from tests.served import ServedPair

CLASSES, EACH, TRAINED = 4, 30, 10
PLAIN = ["--plaintext", "--deployment", "clinic"]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder, CLASSES, EACH)
    return folder


@pytest.fixture(scope="module")
def trained(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("heads") / "numbers"
    train(digits, folder, images_per_class=TRAINED, seed=7)
    return folder


@pytest.fixture
def head(trained: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(trained, tmp_path / "numbers"))


@pytest.fixture(scope="module")
def plan() -> HeadPlan:
    return plan_head(256, CLASSES + 1)


@pytest.fixture(scope="module")
def clinic(plan: HeadPlan) -> Iterator[ServedPair]:
    pair = ServedPair(plan, "clinic")
    yield pair
    pair.stop()


def _run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main(list(map(str, arguments)))
    return int(stop.value.code or 0)


def _error(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on standard error."""
    (line,) = capsys.readouterr().err.splitlines()
    return line


def _test_files(digits: Path, folder: Path) -> list[Path]:
    """The images that the head in `folder` was not trained on."""
    found = read_images(digits, 32, TRAINED, 7)
    files = sorted(digits.glob("*/*.png"))
    assert len(files) == len(found.labels)
    return [files[row] for row in found.test]


# ---- training ------------------------------------------------------------------------------------------------------


def test_train_says_what_it_did_and_keeps_the_weights_to_itself(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "numbers"
    assert _run("head", "train", digits, "--out", out, "--images-per-class", TRAINED, "--seed", 7) == 0
    told = capsys.readouterr().out
    assert f"{TRAINED} images of each class" in told
    assert f"of {CLASSES * (EACH - TRAINED)} test images (95 % interval" in told
    assert "--features 256 --classes 4`, which plans a class more" in told
    assert "rebuild many of them" in told
    assert stat.S_IMODE((out / "head.safetensors").stat().st_mode) == 0o600
    card = json.loads((out / "head.json").read_text())
    assert card["name"] == "numbers"
    assert card["class_names"] == ["0", "1", "2", "3"]
    assert card["images_per_class"] == [TRAINED] * CLASSES
    assert card["image_size"] == 32
    head = load_trained(out).head
    # Neither the seed nor a hash of the weights: either helps to check a guess at a training image.
    assert not {head.fingerprint, 7} & {value for value in card.values() if not isinstance(value, list)}
    assert _run("head", "train", digits, "--out", out) == 2
    assert "holds a head already" in _error(capsys)


def test_training_is_the_papers_on_the_chosen_images(digits: Path, trained: Path) -> None:
    found = read_images(digits, 32, TRAINED, 7)
    features = load_backbone("strokenet").extract(found.images[found.training])
    recipe = Recipe.paper("strokenet", TRAINED)
    expected = train_head(features, found.labels[found.training], CLASSES, recipe, 7)
    head = load_trained(trained).head
    assert np.array_equal(head.weight, expected.weight)
    assert np.array_equal(head.bias, expected.bias)
    assert sorted([*found.training, *found.test]) == list(range(CLASSES * EACH))


def test_a_seed_of_its_own_is_never_the_same(digits: Path, tmp_path: Path) -> None:
    heads = [train(digits, tmp_path / name, images_per_class=2).head for name in ("a", "b")]
    assert not np.array_equal(heads[0].weight, heads[1].weight)


def test_halves_are_trained_and_tested_on_as_they_are(digits: Path, tmp_path: Path) -> None:
    shutil.copytree(digits, tmp_path / "all" / "train")
    shutil.copytree(digits, tmp_path / "all" / "test")
    for path in (tmp_path / "all" / "test").glob("*/00[1-9]*.png"):
        path.unlink()
    done = train(tmp_path / "all", tmp_path / "head", device="cpu")
    assert done.card.images_per_class == (EACH,) * CLASSES
    assert done.accuracy is not None
    assert done.accuracy.images == CLASSES * 10
    # All of a folder without halves leaves nothing to test on.
    assert train(digits, tmp_path / "other").accuracy is None


def test_what_cannot_be_trained_is_one_line(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for more, text in (
        (["--images-per-class", "31"], "class '0' in"),
        (["--images-per-class", "0"], "at least 1"),
        (["--backbone", "strokent"], "did you mean 'strokenet'"),
        (["--device", "gpu"], "unknown device 'gpu'"),
        (["--name", "a\nb"], "printable characters"),
    ):
        assert _run("head", "train", digits, "--out", tmp_path / "none", *more) == 2
        assert text in _error(capsys)
    assert not (tmp_path / "none").exists()


# ---- files ---------------------------------------------------------------------------------------------------------


def test_damaged_and_mixed_up_files_are_refused(head: Path, plan: HeadPlan) -> None:
    public = make_custody(plan).public
    encrypt(head, load_trained(head), public)
    older = (head / "notice.binpb").read_bytes()
    encrypt(head, load_trained(head), public)
    (head / "notice.binpb").write_bytes(older)
    with pytest.raises(DataError, match="do not belong together"):
        load_encrypted(head)
    (head / "notice.binpb").chmod(0o640)
    with pytest.raises(DataError, match="open to others"):
        load_encrypted(head)
    (head / "head.safetensors").chmod(0o604)
    with pytest.raises(DataError, match="open to others"):
        load_trained(head)
    (head / "head.safetensors").chmod(0o600)
    card = json.loads((head / "head.json").read_text())
    (head / "head.json").write_text(json.dumps(card | {"name": "other"}))
    with pytest.raises(DataError, match="another head"):
        load_trained(head)
    (head / "head.json").write_text(json.dumps(card | {"more": 1}))
    with pytest.raises(DataError, match="does not describe a head"):
        load_card(head / "head.json")
    (head / "head.safetensors").write_bytes(b"nonsense")
    (head / "head.json").write_text(json.dumps(card))
    with pytest.raises(DataError, match="holds no head"):
        load_trained(head)


def test_payloads_alone_hold_nothing_else() -> None:
    data = payload_to(RevokeHead("a"))
    assert payload_from(data, RevokeHead) == RevokeHead("a")
    with pytest.raises(MessageError, match="something besides"):
        payload_from(data + b"\xa0\x06\x01", RevokeHead)
    with pytest.raises(ProtocolError):
        payload_from(data, EncryptedHead)
    with pytest.raises(MessageError, match="no revoke_head"):
        payload_from(b"\xff", RevokeHead)


# ---- encrypting ----------------------------------------------------------------------------------------------------


def test_encrypt_for_a_file_of_the_key_holders(
    head: Path, plan: HeadPlan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    public = make_custody(plan).public
    (tmp_path / "public.binpb").write_bytes(export_public(public))
    assert _run("head", "encrypt", head, "--public", tmp_path / "public.binpb") == 0
    assert "with a tag" in capsys.readouterr().out
    host = payload_from((head / "encrypted.binpb").read_bytes(), EncryptedHead)
    notice = payload_from((head / "notice.binpb").read_bytes(), HeadNotice)
    assert (host.head_id, host.key_fingerprint) == ("numbers", public.fingerprint)
    assert (notice.classes, notice.tag.shape, notice.encrypted) == (CLASSES, (CLASSES,), True)
    assert stat.S_IMODE((head / "notice.binpb").stat().st_mode) == 0o600
    (tmp_path / "public.binpb").write_bytes(b"nonsense")
    assert _run("head", "encrypt", head, "--public", tmp_path / "public.binpb") == 2
    assert "cannot be used" in _error(capsys)
    assert _run("head", "encrypt", head) == 2
    assert "either --public FILE or --key-holder" in _error(capsys)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ({"features": 300, "classes": 5}, "heads of 300 features"),
        ({"features": 256, "classes": 7}, "heads of 7 classes"),
        ({"features": 256, "classes": 5, "scheme": "plain"}, "encrypts nothing"),
        ({"features": 256, "classes": 4, "hidden": (4,)}, "hidden layers"),
    ],
)
def test_a_key_for_other_heads_is_refused(trained: Path, key: dict[str, Any], text: str) -> None:
    with pytest.raises(ParameterError, match=text):
        encrypt(trained, load_trained(trained), make_custody(plan_head(**key)).public)


def test_a_key_without_a_class_to_spare_means_no_tag(head: Path) -> None:
    files = encrypt(head, load_trained(head), make_custody(plan_head(256, CLASSES)).public)
    assert not files.notice.tag.size
    assert load_encrypted(head).notice.weight_scale == files.notice.weight_scale


def test_a_client_needs_no_torch() -> None:
    code = (
        "import sys, rhe_parties.cli.main, rhe_parties.data.imagefolder, rhe_parties.service.grpc_errands\n"
        "import rhe_parties.service.head_files\n"
        "print(*sorted({'torch', 'tenseal', 'scipy', 'grpc'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["grpc"]


# ---- served --------------------------------------------------------------------------------------------------------


def test_a_head_lives_from_encryption_to_revocation(
    digits: Path, head: Path, plan: HeadPlan, clinic: ServedPair, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run("head", "encrypt", head, "--key-holder", clinic.holder.address, *PLAIN) == 0
    assert _run("head", "install", head, *clinic.both, *PLAIN) == 0
    assert "clinic serves head 'numbers'" in capsys.readouterr().out
    asking = ["--key-holder", clinic.holder.address, "--head", "numbers", *PLAIN]
    files = _test_files(digits, head)
    labels = ["--labels", head / "head.json"]
    assert _run("classify", *files, *asking, *labels, "--host", clinic.host.address, "--batch", 32, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["complete"]
    _agree(digits, head, plan, files, answer["decisions"])

    assert _run("keys", "rotate", "--key-holder", clinic.holder.address, *PLAIN) == 0
    assert "Heads wait to be encrypted anew" in capsys.readouterr().out
    assert _run("classify", files[0], *asking) == 1
    assert "was replaced" in _error(capsys)
    assert _run("head", "install", head, *clinic.both, *PLAIN) == 1
    assert "`rhe head renew` encrypts it anew" in _error(capsys)
    assert _run("head", "renew", head, *clinic.both, *PLAIN) == 0
    assert _run("classify", files[0], *asking, *labels) == 0
    assert "1 of 1 images decided" in capsys.readouterr().out

    assert _run("head", "revoke", "numbers", *clinic.both, *PLAIN) == 0
    assert capsys.readouterr().out.count("is revoked") == 2
    assert _run("classify", files[0], *asking) == 2
    assert "--head 'numbers' is not allowed" in _error(capsys)
    assert _run("head", "revoke", "numbers", *clinic.both, *PLAIN) == 2
    assert "served by neither" in _error(capsys)
    assert _run("keys", "rotate", "--key-holder", clinic.holder.address, *PLAIN) == 0
    assert "Heads encrypted and installed anew: 0" in capsys.readouterr().out


def _agree(digits: Path, head: Path, plan: HeadPlan, files: list[Path], answer: list[dict[str, Any]]) -> None:
    """Every decision is the plain head's, but where its two best classes are as close as the plan's error."""
    images = read_folder(digits, 32)[0]
    rows = [sorted(digits.glob("*/*.png")).index(path) for path in files]
    logits = load_trained(head).head.logits(load_backbone("strokenet").extract(images[rows])).astype(np.float64)
    best = np.sort(logits, axis=1)
    clear = best[:, -1] - best[:, -2] > 8 * plan.logit_error * np.sqrt(np.mean(logits**2))
    assert clear.sum() >= len(files) - 2
    assert [item["file"] for item in answer] == list(map(str, files))
    assert [item["name"] for item in answer] == [str(item["class"]) for item in answer]
    decided = np.array([item["class"] for item in answer])
    assert np.array_equal(decided[clear], logits.argmax(axis=1)[clear])


def test_a_budget_ends_a_long_question_and_what_was_decided_is_shown(
    digits: Path, head: Path, clinic: ServedPair, capsys: pytest.CaptureFixture[str]
) -> None:
    _admit(clinic, "alice", 5)
    assert _run("head", "renew", head, *clinic.both, *PLAIN) == 0
    asking = ["--key-holder", clinic.holder.address, "--head", "numbers", *PLAIN, "--client", "alice"]
    files = _test_files(digits, head)[:6]
    (head / "broken.png").write_bytes(b"no image")
    assert _run("classify", *files, head / "broken.png", *asking, "--batch", 2) == 2
    assert "cannot read image" in _error(capsys)
    capsys.readouterr()
    assert _run("classify", *files, *asking, "--batch", 2, "--json") == 1
    told = capsys.readouterr()
    # The file that could not be read has cost nothing, the third batch is too much.
    answer = json.loads(told.out)
    assert (len(answer["decisions"]), answer["used"], answer["complete"]) == (4, 4, False)
    assert "4 of 5 images of head 'numbers' are decided for 'client:alice'" in told.err
    assert _run("classify", files[0], *asking[:-1], "bob") == 1
    assert "not from 'client:bob'" in _error(capsys)


def _admit(pair: ServedPair, name: str, budget: int) -> None:
    async def admit() -> None:
        access = Access(Identity("clinic", OPERATOR), None)
        async with access.caller(KEY_HOLDER, pair.holder.address) as caller:
            await caller.ask(AdmitClient(f"client:{name}", budget), ClientAdmitted)

    asyncio.run(admit())


def test_colour_and_gray_files_can_be_asked_together(
    digits: Path, head: Path, clinic: ServedPair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run("head", "renew", head, *clinic.both, *PLAIN) == 0
    capsys.readouterr()
    gray = _test_files(digits, head)[:3]
    colour = []
    for path in gray:
        colour.append(tmp_path / f"{path.stem}-{path.parent.name}.png")
        Image.open(path).convert("RGB").save(colour[-1])
    asking = ["--key-holder", clinic.holder.address, "--head", "numbers", *PLAIN, "--json"]
    assert _run("classify", *gray, *colour, *asking) == 0
    classes = [item["class"] for item in json.loads(capsys.readouterr().out)["decisions"]]
    assert classes[:3] == classes[3:]


def test_a_host_that_installs_something_else_is_found_out(head: Path, clinic: ServedPair) -> None:
    """The host of this test is honest: it is what the owner remembers that is changed."""
    access = Access(Identity("clinic", DATA_OWNER), None)
    assert _run("head", "encrypt", head, "--key-holder", clinic.holder.address, *PLAIN) == 0
    files = load_encrypted(head)
    other = replace(files.notice, fingerprint="0" * 64)
    with pytest.raises(ProtocolError, match="'000000000000' was sent"):
        asyncio.run(install(access, clinic.host.address, clinic.holder.address, files.head, other))


def test_certificates_say_who_may_do_what(
    digits: Path, head: Path, plan: HeadPlan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "hospital"
    new_deployment("hospital", place, ["alice"])
    new_deployment("hospital", tmp_path / "impostors", ["alice"])
    pair = ServedPair(plan, "hospital", place)
    try:
        asking = ["--key-holder", pair.holder.address, "--head", "numbers", "--certificates"]
        files = _test_files(digits, head)[:2]
        assert _run("head", "renew", head, *pair.both, "--certificates", place / "data-owner") == 0
        assert "hospital serves head" in capsys.readouterr().out
        assert _run("classify", *files, *asking, place / "operator", "--host", pair.host.address) == 0
        capsys.readouterr()
        assert _run("classify", *files, *asking, place / "client-alice") == 1
        assert "not from 'client:alice'" in _error(capsys)  # nobody admitted her
        assert _run("classify", *files, *asking, tmp_path / "impostors" / "client-alice") == 1
        assert "its certificate is not the one wanted" in _error(capsys)
        elsewhere = ["--key-holder", pair.host.address, "--head", "numbers", "--certificates", place / "client-alice"]
        assert _run("classify", *files, *elsewhere) == 1
        assert "its certificate is not the one wanted" in _error(capsys)  # it is the host that answers there
        assert _run("head", "renew", head, *pair.both, "--certificates", place / "client-alice") == 2
        assert "is for client; needed: data-owner" in _error(capsys)
        revoked = issue(place, "client", "mallory")
        revoke(place, str(revoked.folder))
        assert _run("classify", *files, *asking, revoked.folder) == 1
        assert "was revoked" in _error(capsys)
    finally:
        pair.stop()


def test_a_server_that_is_down_is_named(
    digits: Path, head: Path, plan: HeadPlan, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = ServedPair(plan, "clinic")
    try:
        assert _run("head", "renew", head, *pair.both, *PLAIN) == 0
        asking = ["--key-holder", pair.holder.address, "--head", "numbers", *PLAIN]
        image = _test_files(digits, head)[0]
        pair.host.stop()
        assert _run("classify", image, *asking, "--host", pair.host.address) == 1
        assert f"model-host at {pair.host.address}: it cannot be reached" in _error(capsys)
        assert _run("classify", image, *asking) == 1
        assert "model-host" in _error(capsys)
        capsys.readouterr()
        assert _run("head", "revoke", "numbers", *pair.both, *PLAIN) == 1
        told = capsys.readouterr()
        assert "key-holder: head 'numbers' is revoked" in told.out
        assert "not revoked: model-host at" in told.err
        pair.holder.stop()
        assert _run("classify", image, *asking) == 1
        assert f"key-holder at {pair.holder.address}: it cannot be reached" in _error(capsys)
    finally:
        pair.stop()


def test_options_that_do_not_fit_together(head: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here = ["--key-holder", "127.0.0.1:1"]
    image = tmp_path / "image.png"
    for arguments, text in (
        (["classify", image, *here, "--head", "a"], "--certificates is missing"),
        (["classify", image, *here, "--head", "a", "--plaintext"], "needs --deployment NAME"),
        (["classify", image, "--key-holder", "10.0.0.1:1", "--head", "a", *PLAIN], "plaintext is not allowed"),
        (["classify", image, "--key-holder", "localhost", "--head", "a", *PLAIN], "HOST:PORT"),
        (["classify", image, *here, "--head", "a", *PLAIN, "--batch", "0"], "--batch 0"),
        (["classify", image, *here, "--head", "a", *PLAIN, "--labels", head / "head.json"], "describes head 'numbers'"),
        (["classify", image, *here, "--head", "a", "--certificates", tmp_path, "--client", "b"], "are for --plaintext"),
        (["keys", "rotate"], "either --vault DIR or --key-holder"),
        (["keys", "rotate", "--vault", tmp_path, *PLAIN], "are for --key-holder"),
        (["keys", "rotate", *here, *PLAIN, "--passphrase-file", image], "is for --vault"),
        (["head", "encrypt", head, "--public", image, *PLAIN], "are for --key-holder"),
    ):
        assert _run(*arguments) == 2
        assert text in _error(capsys)
