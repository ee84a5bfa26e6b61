"""Databases elsewhere by TLS: real servers, with the certificates of an authority made here."""

from __future__ import annotations

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipectl.databases import Databases
from pipectl.engines import clients
from pipectl.engines.local import client_programs
from pipectl.errors import DatabaseError, DatabaseSilentError
from pipectl.observer import Observer
from pipectl.settings import Settings, cache_dir
from support import ROOT
from support.needs import missing, need, need_postgres, need_program
from support.script_servers import servers_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from support.script_servers import Servers

pytest_plugins = ["support.script_servers"]
pytestmark = pytest.mark.integration
SCRIPTS = {"AIRBYTE_POSTGRES": "transaction_generator", "AIRBYTE_MYSQL": "detection_generator"}
KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A server's key and certificate for the name localhost, its authority, another one, and none."""
    folder = tmp_path_factory.mktemp("certificates")
    program = need_program("databases", "openssl")

    def openssl(*arguments: str) -> None:
        subprocess.run([program, *arguments], cwd=folder, check=True, capture_output=True)

    for name in ("ours", "another"):
        subject = ("-subj", f"/CN={name}", "-days", "2")
        openssl("req", "-x509", *KEY, "-keyout", f"{name}.key", "-out", f"{name}.crt", *subject)
    openssl("req", *KEY, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost")
    (folder / "names").write_text("subjectAltName=DNS:localhost\n")
    authority = ("-CA", "ours.crt", "-CAkey", "ours.key", "-CAcreateserial", "-days", "2")
    openssl("x509", "-req", "-in", "server.csr", *authority, "-extfile", "names", "-out", "server.crt")
    (folder / "garbage.crt").write_text("no certificate\n")
    return folder


@cache
def postgres_encrypts() -> bool:
    """Whether this PostgreSQL is built so: the one from a wheel is not."""
    program = need_postgres().bin_dir / "pg_config"
    built = subprocess.run([program, "--configure"], capture_output=True, text=True, check=False)
    return "ssl" in built.stdout


@pytest.fixture(scope="module")
def encrypted(certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Both servers with that certificate, PostgreSQL if it can."""

    def options(folder: Path) -> Mapping[str, tuple[str, ...]]:
        found = {}
        # One that the servers may enter, unlike the one around it.
        reached = folder / "certificates"
        reached.mkdir(mode=0o755)
        for name, data in (("postgres", "airbyte"), ("mysql", "data")):
            owner = (folder / data).stat()
            paths = [
                Path(shutil.copy(certificates / f"server.{kind}", reached / f"{name}.{kind}"))
                for kind in ("crt", "key")
            ]
            for path in paths:
                os.chown(path, owner.st_uid, owner.st_gid)
                path.chmod(0o600)
            found[name] = paths
        certificate, key = found["postgres"]
        postgres = ("-c", "ssl=on", "-c", f"ssl_cert_file={certificate}", "-c", f"ssl_key_file={key}")
        return {
            "postgres": postgres if postgres_encrypts() else (),
            "mysql": (f"--ssl-cert={found['mysql'][0]}", f"--ssl-key={found['mysql'][1]}"),
        }

    with servers_in(tmp_path_factory.mktemp("encrypted"), options) as servers:
        yield servers


def outcomes(servers: Servers, host: str, mode: str, certificate: str) -> list[tuple[str, int, str]]:
    """What pipectl and the scripts say of each of two servers: by its prefix, exit code and sentence."""
    found = []
    addresses = [
        replace(address, host=host, ssl_mode=mode, root_certificate=certificate)
        for address in servers.addresses
    ]
    for address, (prefix, script) in zip(addresses, SCRIPTS.items(), strict=True):
        try:
            # In a thread of its own, as a command is a process of its own: after a certificate that was
            # refused, libpq leaves an error of OpenSSL's in its thread, and names that one the next time.
            with ThreadPoolExecutor(1) as pool:
                pool.submit(Databases(*addresses).ping, address.service).result()
            found.append((prefix, 0, ""))
        except DatabaseError as error:
            # What is silent is waited for.
            code = 0 if isinstance(error, DatabaseSilentError) else int(error.code)
            found.append((prefix, code, f"{error.message} {error.hint}"))
        settings = {"HOST": host, "SSLMODE": mode, "SSLROOTCERT": certificate}
        variables = {f"{prefix}_{name}": value for name, value in settings.items()}
        found.append((prefix, *servers.run(script, **variables)))
    return found


@pytest.mark.parametrize(
    ("host", "mode", "certificate"),
    [
        ("localhost", "disable", ""),
        ("127.0.0.1", "prefer", ""),
        ("127.0.0.1", "require", ""),
        ("127.0.0.1", "verify-ca", "ours.crt"),
        ("localhost", "verify-full", "ours.crt"),
    ],
)
def test_a_server_with_a_certificate_is_used(
    encrypted: Servers, certificates: Path, host: str, mode: str, certificate: str
) -> None:
    encrypted.empty()
    path = str(certificates / certificate) if certificate else ""
    for prefix, code, said in outcomes(encrypted, host, mode, path):
        if prefix == "AIRBYTE_MYSQL" or postgres_encrypts():
            assert code == 0, (prefix, said)


@pytest.mark.parametrize(
    ("host", "mode", "certificate", "reason"),
    [
        ("localhost", "verify-full", "another.crt", "certificate verify failed"),
        ("127.0.0.1", "verify-ca", "another.crt", "certificate verify failed"),
        ("localhost", "verify-full", "", "certificate verify failed"),
        ("127.0.0.1", "verify-full", "ours.crt", "match"),
        ("localhost", "verify-full", "garbage.crt", "no certificate or crl found"),
    ],
)
def test_another_certificate_is_named_as_the_cause(
    encrypted: Servers, certificates: Path, host: str, mode: str, certificate: str, reason: str
) -> None:
    path = str(certificates / certificate) if certificate else ""
    for prefix, code, said in outcomes(encrypted, host, mode, path):
        assert code == 5, (prefix, said)
        if prefix == "AIRBYTE_MYSQL" or postgres_encrypts():
            assert reason in said
        assert f"{prefix}_SSLMODE" in said
        assert f"{prefix}_SSLROOTCERT" in said
        assert f"{prefix}_PORT" not in said


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
def test_a_server_without_encryption_is_named_as_the_cause(
    servers: Servers, certificates: Path, mode: str
) -> None:
    for prefix, code, said in outcomes(servers, "localhost", mode, str(certificates / "ours.crt")):
        # MySQL makes itself a certificate.
        if code == 0 and prefix == "AIRBYTE_MYSQL" and mode == "require" and not servers.is_mariadb():
            continue
        assert code == 5, (prefix, said)
        assert "SSL" in said or "offers no encryption" in said
        assert f"{prefix}_SSLMODE" in said
        assert f"{prefix}_PORT" not in said


def test_files_of_the_users_own_for_other_clients_do_not_count(
    encrypted: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of ~/.postgresql, libpq would take an authority, and a certificate to show."""
    if not postgres_encrypts():
        missing("encryption", "this PostgreSQL is built without encryption")
    encrypted.empty()
    folder = tmp_path / ".postgresql"
    folder.mkdir()
    for name in ("root.crt", "postgresql.crt", "postgresql.key", "root.crl"):
        (folder / name).write_text("nonsense")
        (folder / name).chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    address = replace(encrypted.addresses[0], ssl_mode="require")
    Databases(address, encrypted.addresses[1]).ping(address.service)
    for mode in ("prefer", "require"):
        code, log = encrypted.run("transaction_generator", HOME=str(tmp_path), AIRBYTE_POSTGRES_SSLMODE=mode)
        assert code == 0, log


@pytest.mark.parametrize(
    ("host", "mode", "certificate", "encrypts"),
    [
        ("127.0.0.1", "disable", "", False),
        ("127.0.0.1", "prefer", "", True),
        ("127.0.0.1", "require", "", True),
        ("localhost", "verify-ca", "ours.crt", True),
        ("localhost", "verify-full", "ours.crt", True),
        ("localhost", "verify-full", "another.crt", None),
        ("127.0.0.1", "verify-full", "ours.crt", None),
    ],
)
def test_clients_encrypt_as_the_settings_say(
    encrypted: Servers,
    certificates: Path,
    host: str,
    mode: str,
    certificate: str,
    encrypts: bool | None,  # noqa: FBT001  None for a connection that is refused
) -> None:
    path = str(certificates / certificate) if certificate else ""
    postgres, mysql = (
        replace(address, host=host, ssl_mode=mode, root_certificate=path) for address in encrypted.addresses
    )
    settings, observer = Settings(ROOT, "local", cache_dir(), {}), Observer()
    client = need("databases", partial(client_programs.find_mysql, settings, observer))
    words = (*clients.mysql_words(client, mysql), "-Ne", "SHOW STATUS LIKE 'Ssl_cipher'")
    login = {**clients.mysql_login(mysql), **client.environment}
    asked = [subprocess.run(words, env=login, capture_output=True, text=True, check=False)]
    if postgres_encrypts():
        psql = client_programs.find_psql(settings, observer, need_postgres().bin_dir / "postgres")
        query = "SELECT coalesce(cipher, '') FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        login = clients.postgres_login(postgres)
        asked.append(
            subprocess.run((psql, "-Atc", query), env=login, capture_output=True, text=True, check=False)
        )
    for done in asked:
        cipher = done.stdout.removeprefix("Ssl_cipher").strip()
        found = None if done.returncode else bool(cipher)
        assert found == encrypts, (done.args[0], done.stdout, done.stderr)
