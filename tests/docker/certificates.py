"""Certificates for a daemon and its clients, made by `openssl`."""

import subprocess
from pathlib import Path


def make(folder: Path, address: str) -> None:
    """Write an authority, a certificate for a daemon at an address, and one for its clients.

    Those of the clients have the names that the `docker` command looks for: `ca.pem`, `cert.pem`
    and `key.pem`; those of the daemon are `server.pem` and `server-key.pem`.
    """
    new = ["req", "-x509", "-subj", "/CN=tests", "-days", "2"]
    _openssl(folder, *new, "-keyout", "ca-key.pem", "-out", "ca.pem")
    signed = [*new, "-CA", "ca.pem", "-CAkey", "ca-key.pem", "-addext"]
    server, client = f"subjectAltName=IP:{address}", "extendedKeyUsage=clientAuth"
    _openssl(folder, *signed, server, "-keyout", "server-key.pem", "-out", "server.pem")
    _openssl(folder, *signed, client, "-keyout", "key.pem", "-out", "cert.pem")


def _openssl(folder: Path, command: str, *options: str) -> None:
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    words = ["openssl", command, *key, *options]
    subprocess.run(words, cwd=folder, check=True, capture_output=True)
