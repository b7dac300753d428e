"""Certificates and keys from PEM files: what is taken, what is refused and in which words, and when they expire."""

from __future__ import annotations

import re
import ssl
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from authority import Authority, Pair
from headwaiter_server.certificates import KeyPair, read_authorities, read_pair
from headwaiter_server.errors import ConfigError

FLAGS = ("--tls-cert", "--tls-key")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Pair:
    return authority.issue("server")


def read(pair: Pair) -> KeyPair:
    return read_pair(pair.certificate, pair.key, FLAGS)


def changed(pair: Pair, folder: Path, *, certificate: bytes | None = None, key: bytes | None = None) -> Pair:
    """The same files but for what is given."""
    other = Pair(folder / "server.pem", folder / "server.key")
    other.certificate.write_bytes(pair.certificate.read_bytes() if certificate is None else certificate)
    other.key.write_bytes(pair.key.read_bytes() if key is None else key)
    return other


@pytest.mark.parametrize("days", [-1, 2, 400, 20_000])  # the last beyond 2049, where certificates write years in full
@pytest.mark.parametrize("kind", ["P-256", "P-384", "P-521", "rsa"])
def test_a_pair_is_read_with_its_expiry(authority: Authority, days: int, kind: str) -> None:
    """The bytes are those of the files, and the expiry is what openssl says, for keys of every kind that is taken."""
    key = ("rsa:2048",) if kind == "rsa" else ("ec", "-pkeyopt", f"ec_paramgen_curve:{kind}")
    made = authority.issue(f"expiring{kind}{days}", days=days, key=("-newkey", *key, "-nodes"))
    found = read(made)
    assert (found.chain, found.key) == (made.certificate.read_bytes(), made.key.read_bytes())
    told = subprocess.run(
        ["openssl", "x509", "-in", made.certificate, "-noout", "-enddate"], check=True, capture_output=True, text=True
    ).stdout
    ends = datetime.strptime(told.strip(), "notAfter=%b %d %H:%M:%S %Y GMT").replace(tzinfo=UTC)
    assert found.expires == ends.timestamp()


def test_the_first_certificate_of_a_chain_counts(authority: Authority, pair: Pair, tmp_path: Path) -> None:
    """What it was signed with follows it, words may stand between, and its expiry is the first one's."""
    chain = b"a comment\n" + pair.certificate.read_bytes() + b"another\n" + authority.certificate.read_bytes()
    found = read(changed(pair, tmp_path, certificate=chain))
    assert (found.chain, found.expires) == (chain, read(pair).expires)


def test_older_tls_than_1_2_is_not_spoken(pair: Pair) -> None:
    assert read(pair).context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_nothing_secret_is_shown(pair: Pair) -> None:
    found = read(pair)
    assert found.key.splitlines()[1].decode() not in repr(found)


@pytest.mark.parametrize(
    ("certificate", "key", "words"),
    [
        (b"", None, "--tls-cert: .*server.pem: holds no certificate in PEM"),
        (b"no certificate", None, "--tls-cert: .*server.pem: holds no certificate"),
        (b"half", None, "--tls-cert: .*server.pem: holds"),
        (b"second half", None, "--tls-cert: .*server.pem: holds what is no certificate"),
        (None, b"", "--tls-key: .*server.key: no private key"),
        (None, b"half", "--tls-key: .*server.key: no private key"),
        (None, b"encrypted", "--tls-key: .*server.key: no private key in PEM without a password"),
        (None, b"other", "--tls-key: .*server.key is not the key of the certificate in .*server.pem"),
        (b"x" * ((1 << 20) + 1), None, "--tls-cert: .*server.pem: more than 1 MiB"),
    ],
)
def test_what_is_no_pair_is_refused(
    authority: Authority, pair: Pair, tmp_path: Path, certificate: bytes | None, key: bytes | None, words: str
) -> None:
    """Each mistake is told with its setting and file, and nothing that the key's file holds."""
    good, secret = pair.certificate.read_bytes(), pair.key.read_bytes()
    # The block twice, of which the second one's end is missing a line of its contents.
    lines = good.splitlines(keepends=True)
    broken = good + b"".join([lines[0], b"AAAA" + lines[1][4:], *lines[2:]])
    certificates = {b"half": good[: len(good) // 2], b"second half": broken}
    encrypted = subprocess.run(
        ["openssl", "pkcs8", "-topk8", "-in", pair.key, "-passout", "pass:secret"], check=True, capture_output=True
    ).stdout
    keys = {
        b"half": secret[: len(secret) // 2],
        b"encrypted": encrypted,
        b"other": authority.issue("other").key.read_bytes(),
    }
    made = changed(
        pair,
        tmp_path,
        certificate=certificates.get(certificate, certificate) if certificate is not None else None,
        key=keys.get(key, key) if key is not None else None,
    )
    with pytest.raises(ConfigError, match=words) as caught:
        read(made)
    assert not any(line in str(caught.value) for line in secret.decode().splitlines()[1:-1])


@pytest.mark.parametrize("form", ["without its length", "another time"])
def test_a_certificate_in_another_form_is_refused(pair: Pair, tmp_path: Path, form: str) -> None:
    """`ssl` takes it; nothing but an error of the settings comes of it, which a changed file may bring at any time."""
    der = ssl.PEM_cert_to_DER_cert(pair.certificate.read_text())
    if form == "without its length":
        header = 2 + (der[1] & 0x7F)
        odd = b"\x30\x80" + der[header:] + b"\0\0"
    else:
        times = [found.end() for found in re.finditer(rb"\x17\x0d\d{12}Z", der)]
        odd = der[: times[1] - 1] + b"?" + der[times[1] :]
    made = changed(pair, tmp_path, certificate=ssl.DER_cert_to_PEM_cert(odd).encode())
    with pytest.raises(ConfigError, match=r"--tls-cert: .*server.pem: the certificate is not written as RFC 5280 says"):
        read(made)


def test_files_that_are_not_there_are_named(pair: Pair, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--tls-cert: .*nowhere.pem: No such file"):
        read_pair(tmp_path / "nowhere.pem", pair.key, FLAGS)
    with pytest.raises(ConfigError, match=r"--tls-key: .*nowhere.key: No such file"):
        read_pair(pair.certificate, tmp_path / "nowhere.key", FLAGS)
    with pytest.raises(ConfigError, match=r"--tls-client-ca: .*: Is a directory"):
        read_authorities(tmp_path, "--tls-client-ca")


@pytest.mark.parametrize("key", [("ed25519",), ("ec", "-pkeyopt", "ec_paramgen_curve:secp256k1")])
def test_keys_that_grpc_does_not_take_are_refused(authority: Authority, key: tuple[str, ...]) -> None:
    """They would pass here, and every handshake would fail."""
    with pytest.raises(ConfigError, match=r"--tls-cert: .*: the key is none of RSA, or ECDSA"):
        read(authority.issue(f"odd{key[0]}", key=("-newkey", *key, "-nodes")))


def test_a_pair_that_is_written_while_it_is_read_is_not_taken(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was checked is what is used, or it is refused."""
    made = changed(pair, tmp_path)
    load = ssl.SSLContext.load_cert_chain

    def load_and_change(*arguments: object, **named: object) -> None:
        load(*arguments, **named)  # type: ignore[arg-type]
        made.key.write_bytes(pair.key.read_bytes() + b"\n")

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", load_and_change)
    with pytest.raises(ConfigError, match="was written while"):
        read(made)


def test_authorities_are_read_whole(authority: Authority, pair: Pair, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(authority.certificate.read_bytes() * 2)
    assert read_authorities(both, "--tls-client-ca") == both.read_bytes()
    with pytest.raises(ConfigError, match=r"--tls-client-ca: .*: holds no certificate in PEM"):
        read_authorities(pair.key, "--tls-client-ca")
