"""Certificates for tests, made by openssl: of an authority, and what it signs."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
LOCAL = "DNS:localhost,IP:127.0.0.1"


@dataclass(frozen=True)
class Pair:
    """Files of a certificate and its private key, PEM."""

    certificate: Path
    key: Path

    def copy_to(self, other: Pair) -> None:
        """Write the same over other files: first the certificate, then the key."""
        other.certificate.write_bytes(self.certificate.read_bytes())
        other.key.write_bytes(self.key.read_bytes())

    def flags(self, prefix: str = "--tls") -> list[str]:
        """For the server's command line."""
        return [f"{prefix}-cert", str(self.certificate), f"{prefix}-key", str(self.key)]


class Authority:
    """An authority with a folder of its own, where everything it signs lies."""

    def __init__(self, folder: Path) -> None:
        """Make its own key and certificate."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.certificate = folder / "authority.pem"
        subject = ("-subj", f"/CN=Authority {folder.name}")
        self._openssl(
            "req", "-x509", *_KEY, "-keyout", "authority.key", "-out", "authority.pem", "-days", "3", *subject
        )

    def issue(self, name: str, *, hosts: str = LOCAL, days: int = 2, key: tuple[str, ...] = _KEY) -> Pair:
        """Sign a certificate with a new key.

        Args:
            name: Its common name, and its files'.
            hosts: Names and addresses that it is for.
            days: How long it holds; with -1 it has expired.
            key: How openssl makes its key.
        """
        pair = Pair(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        (self._folder / f"{name}.ext").write_text(f"subjectAltName={hosts}\n")
        self._openssl("req", *key, "-keyout", pair.key.name, "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signed = ("-CA", "authority.pem", "-CAkey", "authority.key", "-CAcreateserial", "-extfile", f"{name}.ext")
        self._openssl("x509", "-req", "-in", f"{name}.csr", *signed, "-days", str(days), "-out", pair.certificate.name)
        return pair

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self._folder, check=True, capture_output=True)
