"""Certificates and private keys in PEM files: read, checked, and when they expire.

What is checked here is what `ssl` can check; that gRPC brings a TLS library of its own is why only keys are taken that
both know.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from headwaiter_server.errors import ConfigError
from headwaiter_server.rereading import read_file

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_UTC_TIME = 0x17
_VERSION = 0xA0
# RFC 5280: a year of two digits from 50 on is of the last century.
_PIVOT = "50"
# Object identifiers as they are encoded, RFC 3279 and RFC 5480: RSA, and elliptic curves with the ones that every TLS
# library takes.
_RSA = bytes.fromhex("2a864886f70d010101")
_ELLIPTIC = bytes.fromhex("2a8648ce3d0201")
_CURVES = frozenset(map(bytes.fromhex, ("2a8648ce3d030107", "2b81040022", "2b81040023")))


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its private key.

    Attributes:
        chain: The certificate and those that it was signed with, PEM.
        key: The private key, PEM.
        expires: When the certificate does, in Unix time.
        context: For servers that use `ssl`, with both loaded.
    """

    chain: bytes
    key: bytes = field(repr=False)
    expires: float
    context: ssl.SSLContext = field(repr=False)


@dataclass(frozen=True, slots=True)
class Identity:
    """What the server shows its clients, and which of them it takes.

    Attributes:
        pair: Its certificate and key.
        authorities: Those that clients' certificates must be signed by, PEM; None asks for no certificate.
    """

    pair: KeyPair
    authorities: bytes | None

    @property
    def expires(self) -> float:
        """When the certificate does, in Unix time."""
        return self.pair.expires


def read_pair(certificate: Path, key: Path, settings: tuple[str, str]) -> KeyPair:
    """A certificate and its private key, from their files.

    Args:
        certificate: PEM file of the certificate, followed by those that it was signed with.
        key: PEM file of its private key, without a password.
        settings: The flags of both, for the message.

    Raises:
        ConfigError: A file cannot be read, holds something else, or they do not belong together.
    """
    certificate_setting, key_setting = settings
    chain, secret = read_file(certificate, certificate_setting), read_file(key, key_setting)
    expires = _expiry(chain, f"{certificate_setting}: {certificate}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # Only files can be loaded. An empty password, as it would be asked for on the terminal.
        context.load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            problem = f"{key} is not the key of the certificate in {certificate}"
        else:
            problem = f"{key}: no private key in PEM without a password, or one too weak ({error.reason})"
        raise ConfigError(f"{key_setting}: {problem}") from error
    except OSError as error:
        raise ConfigError(f"{key_setting}: {key}: {error.strerror}") from error
    if (chain, secret) != (read_file(certificate, certificate_setting), read_file(key, key_setting)):
        raise ConfigError(f"{certificate_setting}: {certificate} or {key} was written while they were read")
    return KeyPair(chain, secret, expires, context)


def read_authorities(path: Path, setting: str) -> bytes:
    """Certificates of authorities, from their PEM file.

    Raises:
        ConfigError: It cannot be read, or holds something else.
    """
    content = read_file(path, setting)
    _first_certificate(content, f"{setting}: {path}")
    return content


def _first_certificate(content: bytes, where: str) -> bytes:
    """The first of the certificates of a PEM file, all of which are sound, as DER."""
    try:
        text = content.decode("ascii", errors="replace")
        found = _CERTIFICATE.search(text)
        if found is None:
            raise ConfigError(f"{where}: holds no certificate in PEM")
        # Takes them one after another, and refuses the file for any that is none.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata="\n".join(_CERTIFICATE.findall(text)))
        return ssl.PEM_cert_to_DER_cert(found.group())
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(f"{where}: holds what is no certificate in PEM") from error


def _expiry(chain: bytes, where: str) -> float:
    """When the first certificate of a chain expires."""
    der = _first_certificate(chain, where)
    try:
        algorithm, expires = _facts(der)
    except (IndexError, StopIteration, ValueError) as error:
        # `ssl` also takes what is written in other ways than the one that the RFC allows.
        raise ConfigError(f"{where}: the certificate is not written as RFC 5280 says") from error
    if algorithm[0] != _RSA and not (algorithm[0] == _ELLIPTIC and algorithm[1] in _CURVES):
        raise ConfigError(f"{where}: the key is none of RSA, or ECDSA on P-256, P-384 or P-521")
    return expires


def _facts(der: bytes) -> tuple[list[bytes], float]:
    """The algorithm of a certificate's key with its parameters, and when it expires.

    RFC 5280, section 4.1, says what stands where; what is written otherwise raises whatever it does.
    """
    signed = next(_elements(next(_elements(der))[1]))[1]
    # Behind the version, which may be left out: serial number, signature, issuer, validity, subject, key.
    fields = [content for tag, content in _elements(signed) if tag != _VERSION]
    algorithm = [content for _, content in _elements(next(_elements(fields[5]))[1])]
    _, (tag, not_after) = _elements(fields[3])
    time = not_after.decode("ascii")
    if tag == _UTC_TIME:
        time = ("20" if time < _PIVOT else "19") + time
    return [*algorithm, b""], datetime.strptime(time, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and content of the DER elements (X.690) that follow one another."""
    at = 0
    while at < len(data):
        tag, length, at = data[at], data[at + 1], at + 2
        if length >= 0x80:  # noqa: PLR2004 - the high bit says that so many bytes with the length follow
            size = length & 0x7F
            length, at = int.from_bytes(data[at : at + size]), at + size
        yield tag, data[at : at + length]
        at += length
