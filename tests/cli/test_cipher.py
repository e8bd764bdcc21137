"""Data of any size through a real HSM, from the command line, checked by openssl."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from orchestrator.cli.main import main
from orchestrator.client.streaming import PIECE_BYTES
from tests.cli.cloudhsm.site import SiteServices, activate, credentials, site

pytestmark = pytest.mark.softhsm
SIZES = [0, 1, 15, 16, 17, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES + 5]
Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SiteServices]:
    with site(tmp_path_factory.mktemp("site") / "home") as made:
        activate(made)
        yield made


@pytest.fixture
def cli(services: SiteServices, capsys: pytest.CaptureFixture[str]) -> Cli:
    def run(line: str) -> tuple[int, str, str]:
        os.environ.update(credentials("alice"))
        capsys.readouterr()
        status = main([*line.split(), "--output", "json"], services)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture(scope="module", autouse=True)
def keys(services: SiteServices) -> None:
    lines = [
        "key generate-symmetric aes --label data --key-length-bytes 32 "
        "--attributes encrypt=true decrypt=true",
        "key generate-symmetric generic-secret --label mac --key-length-bytes 32",
        "key generate-asymmetric-pair rsa --public-label oaep-pub --private-label oaep "
        "--modulus-size-bits 2048 --public-exponent 65537 --public-attributes encrypt=true "
        "--private-attributes decrypt=true",
        "key generate-asymmetric-pair ec --public-label agree-pub --private-label agree "
        "--curve secp256r1 --private-attributes derive=true",
    ]
    for line in lines:
        os.environ.update(credentials("alice"))
        assert main(line.split(), services) == 0


@pytest.mark.parametrize("mechanism", ["aes-cbc-pad", "aes-ctr"])
@pytest.mark.parametrize("size", SIZES)
def test_a_file_of_any_size_comes_back(mechanism: str, size: int, cli: Cli, tmp_path: Path) -> None:
    plain, sealed, back = (tmp_path / name for name in ("plain", "sealed", "back"))
    plain.write_bytes(os.urandom(size))
    key = f"--key-filter attr.label=data --mechanism {mechanism}"
    status, _, err = cli(f"crypto encrypt {key} --data-path {plain} --path {sealed}")
    assert status == 0, err
    padding = 16 - size % 16 if mechanism == "aes-cbc-pad" else 0
    assert sealed.stat().st_size == 16 + size + padding
    assert sealed.stat().st_mode & 0o777 == 0o600
    assert cli(f"crypto decrypt {key} --data-path {sealed} --path {back}")[0] == 0
    assert back.read_bytes() == plain.read_bytes()


def feed(path: Path, content: bytes) -> threading.Thread:
    """Make a pipe, and let somebody write into it."""
    os.mkfifo(path)

    def write() -> None:
        with suppress(BrokenPipeError), path.open("wb") as pipe:
            pipe.write(content)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES, 9 * PIECE_BYTES + 1])
def test_a_pipe_is_read_to_its_end(size: int, cli: Cli, tmp_path: Path) -> None:
    plain, sealed, back = (tmp_path / name for name in ("plain", "sealed", "back"))
    key = "--key-filter attr.label=data --mechanism aes-cbc-pad"
    content = os.urandom(size)
    writer = feed(plain, content)
    status, _, err = cli(f"crypto encrypt {key} --data-path {plain} --path {sealed}")
    assert status == 0, err
    writer.join(10)
    writer = feed(tmp_path / "again", sealed.read_bytes())
    assert cli(f"crypto decrypt {key} --data-path {tmp_path / 'again'} --path {back}")[0] == 0
    writer.join(10)
    assert back.read_bytes() == content
    assert back.stat().st_mode & 0o777 == 0o600


def test_what_is_read_whole_is_bounded_also_from_pipes_and_devices(
    cli: Cli, tmp_path: Path
) -> None:
    mac = "crypto mac --key-filter attr.label=mac --mechanism hmac-sha256 --data-path"
    writer = feed(tmp_path / "small", b"Hello")
    by_pipe = json.loads(cli(f"{mac} {tmp_path / 'small'}")[1])["mac"]
    writer.join(10)
    by_word = cli("crypto mac --key-filter attr.label=mac --mechanism hmac-sha256 --data SGVsbG8=")
    assert by_pipe == json.loads(by_word[1])["mac"]
    status, out, err = cli(f"{mac} /dev/zero")  # which never ends
    assert (status, out) == (2, "")
    assert "/dev/zero exceeds 67108864 bytes" in err


def test_an_output_that_is_there_stays(cli: Cli, tmp_path: Path) -> None:
    key = "--key-filter attr.label=data --mechanism aes-ctr"
    for name in ("file", "link", "pipe", "folder"):
        path = tmp_path / name
        match name:
            case "file":
                path.write_bytes(b"mine")
            case "link":
                path.symlink_to(tmp_path / "file")
            case "pipe":
                os.mkfifo(path)
            case _:
                path.mkdir()
        status, out, err = cli(f"crypto encrypt {key} --data SGVsbG8= --path {path}")
        assert (status, out) == (1, ""), name
        assert "exists already" in err
    assert (tmp_path / "file").read_bytes() == b"mine"


def test_a_key_that_is_not_there_leaves_no_file(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "sealed"
    for key in ("attr.label=nothing", "attr.label=mac"):
        line = f"crypto encrypt --key-filter {key} --mechanism aes-ctr --data SGVsbG8="
        assert cli(f"{line} --path {path}")[0] != 0
        assert not path.exists()


def test_a_damaged_end_leaves_no_file(cli: Cli, tmp_path: Path) -> None:
    sealed, back = tmp_path / "sealed", tmp_path / "back"
    key = "--key-filter attr.label=data --mechanism aes-cbc-pad"
    sealed.write_bytes(bytes(16 + PIECE_BYTES + 15))  # no whole block at the end
    status, out, err = cli(f"crypto decrypt {key} --data-path {sealed} --path {back}")
    assert (status, out) == (1, "")
    assert json.loads(err.splitlines()[-1])["code"]
    assert not back.exists()
    sealed.write_bytes(b"short")
    assert cli(f"crypto decrypt {key} --data-path {sealed} --path {back}")[0] == 1
    assert not back.exists()


def test_gcm_says_what_it_takes(cli: Cli, tmp_path: Path) -> None:
    key = "--key-filter attr.label=data --mechanism aes-gcm --aad 0x0102"
    status, out, _ = cli(f"crypto encrypt {key} --data SGVsbG8=")
    assert status == 0
    sealed = json.loads(out)["data"]
    assert json.loads(cli(f"crypto decrypt {key} --data {sealed}")[1])["data"] == "SGVsbG8="
    assert cli(f"crypto decrypt {key[:-2]} --data {sealed}")[0] == 1
    large = tmp_path / "large"
    large.write_bytes(bytes(512 * 1024 + 100))
    status, _, err = cli(f"crypto encrypt {key} --data-path {large}")
    assert status == 2
    assert "aes-cbc-pad and aes-ctr" in err


def test_openssl_encrypts_to_an_rsa_key(cli: Cli, tmp_path: Path) -> None:
    public, sealed = tmp_path / "public.pem", tmp_path / "sealed"
    pem = f"key generate-file --encoding pem --path {public} --filter attr.label=oaep-pub"
    assert cli(pem)[0] == 0
    command = "openssl pkeyutl -encrypt -pubin -pkeyopt rsa_padding_mode:oaep"
    argv = [*command.split(), "-inkey", str(public), "-out", str(sealed)]
    subprocess.run(argv, input=b"Hello", check=True)
    options = "--mechanism rsa-oaep --hash-function sha1"
    line = f"crypto decrypt --key-filter attr.label=oaep {options} --data-path {sealed}"
    assert json.loads(cli(line)[1])["data"] == "SGVsbG8="
    made = cli(f"crypto encrypt --key-filter attr.label=oaep-pub {options} --data SGVsbG8=")
    again = json.loads(made[1])["data"]
    line = f"crypto decrypt --key-filter attr.label=oaep {options} --data {again}"
    assert json.loads(cli(line)[1])["data"] == "SGVsbG8="


def test_macs_are_made_and_checked(cli: Cli) -> None:
    key = "--key-filter attr.label=mac --mechanism hmac-sha256 --data SGVsbG8="
    made = json.loads(cli(f"crypto mac {key}")[1])["mac"]
    assert cli(f"crypto mac {key} --check {made}")[0] == 0
    assert cli(f"crypto mac {key} --check {made[:-4]}AAA=")[0] == 1


def test_two_sides_derive_one_key(cli: Cli, tmp_path: Path) -> None:
    peer, public = tmp_path / "peer.key", tmp_path / "peer.pem"
    for command in (
        f"openssl ecparam -name prime256v1 -genkey -noout -out {peer}",
        f"openssl ec -in {peer} -pubout -out {public}",
    ):
        subprocess.run(command.split(), check=True, capture_output=True)
    line = (
        f"crypto derive --key-filter attr.label=agree --peer-path {public} --kdf CKD_NULL "
        "--key-type generic-secret --key-length-bytes 32 --label shared --attributes sign=true"
    )
    status, _, err = cli(line)
    assert status == 0, err
    ours = tmp_path / "ours.pem"
    assert (
        cli(f"key generate-file --encoding pem --path {ours} --filter attr.label=agree-pub")[0] == 0
    )
    derive = f"openssl pkeyutl -derive -inkey {peer} -peerkey {ours}"
    secret = subprocess.run(derive.split(), check=True, capture_output=True).stdout
    made = cli("crypto mac --key-filter attr.label=shared --mechanism hmac-sha256 --data SGVsbG8=")
    expected = hmac.new(secret, b"Hello", hashlib.sha256).digest()
    assert base64.b64decode(json.loads(made[1])["mac"]) == expected
    bad = cli(line.replace(str(public), str(peer)).replace("shared", "no"))
    assert bad[0] == 2


@pytest.mark.parametrize("count", [1, 64 * 1024, 64 * 1024 + 1])
def test_random_bytes_of_any_count(count: int, cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "random"
    assert cli(f"crypto random --bytes {count} --path {path}")[0] == 0
    assert path.stat().st_size == count
