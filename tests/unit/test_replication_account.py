"""The replication accounts' SQL with any name and password, as the local engine and the containers run it."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipectl.engines.local import mariadb, postgres_roles
from pipectl.errors import EngineError
from pipectl.models import ReplicationLogin

STACK = Path(__file__).parents[2] / "stack"
POSTGRES = STACK / "postgres" / "replication-account.sql"
ANY = st.text(st.characters(exclude_characters="\n\0", exclude_categories=["Cs"]), min_size=1, max_size=30)
CONTAINER_SCRIPT = """
set -euo pipefail
docker_process_sql() { cat; }
MYSQL_USER=$1 MYSQL_DATABASE=$2 AIRBYTE_REPLICATION_USER=$3 AIRBYTE_REPLICATION_PASSWORD=$4
. "$5"
"""


def parsed(statement: str) -> tuple[str, list[str]]:
    """A statement with its quoted parts cut out, and what PostgreSQL reads in these."""
    values: list[str] = []

    def cut(part: re.Match[str]) -> str:
        mark = part[0][0]
        values.append(part[0][1:-1].replace(mark * 2, mark))
        return mark

    # An identifier or string ends at the first quotation mark that is not doubled.
    return re.sub(r""""(?:[^"]|"")*"|'(?:[^']|'')*'""", cut, statement), values


@given(owner=ANY, user=ANY, password=ANY)
def test_postgres_reads_each_name_and_password_as_it_is(owner: str, user: str, password: str) -> None:
    made = postgres_roles.account(owner, ReplicationLogin(user, password), POSTGRES)

    create, rights, usage, tables, future = map(parsed, made)
    # A block of statements is a string in a statement.
    assert create[0] == "DO '"
    assert parsed(create[1][0])[1] == [user, user]
    assert rights == ("ALTER ROLE \" LOGIN REPLICATION PASSWORD '", [user, password])
    assert usage == ('GRANT USAGE ON SCHEMA public TO "', [user])
    assert tables == ('GRANT SELECT ON ALL TABLES IN SCHEMA public TO "', [user])
    assert future == (
        'ALTER DEFAULT PRIVILEGES FOR ROLE " IN SCHEMA public GRANT SELECT ON TABLES TO "',
        [owner, user],
    )
    assert not [statement for statement in made if "\n" in statement]


def variables(text: str) -> dict[str, str]:
    found = re.findall(r"SET @(\w+) = CONVERT\(X'([0-9a-f]*)' USING utf8mb4\);", text)
    return {name: bytes.fromhex(digits).decode() for name, digits in found}


@given(user=ANY, password=ANY, database=ANY)
def test_mysql_is_given_each_name_and_password_as_it_is(user: str, password: str, database: str) -> None:
    login = ReplicationLogin(user, password)
    made = mariadb._statements(STACK / "mysql", "docker", "secret", database, login)

    expected = {"owner": "docker", "owner_password": "secret", "database": database}
    expected |= {"reader": user, "password": password}
    assert variables("\n".join(made)) == expected
    assert all(statement.endswith(";") and "\n" not in statement for statement in made)


@pytest.mark.parametrize(
    "odd", ["plain", "it's", 'a"b`c\\d', "ж 😀", "%s_$HOME", "-n", "x;--", " two  blanks "]
)
def test_containers_give_mysql_the_same_as_the_local_engine(odd: str) -> None:
    # The script reads its statements where the containers have them.
    script = (STACK / "mysql" / "create-accounts.sh").read_text(encoding="utf-8")
    assert script.count("/etc/pipectl/") == 2
    command = CONTAINER_SCRIPT.replace(
        '. "$5"', script.replace("/etc/pipectl", shlex.quote(str(STACK / "mysql")))
    )
    done = subprocess.run(
        ("bash", "-c", command, "bash", odd, f"{odd}2", f"{odd}3", f"{odd}4"),
        capture_output=True,
        text=True,
        check=True,
    )

    login = ReplicationLogin(f"{odd}3", f"{odd}4")
    made = mariadb._statements(STACK / "mysql", odd, "secret", f"{odd}2", login)
    expected = variables("\n".join(made))
    assert expected.pop("owner_password") == "secret"
    assert variables(done.stdout) == expected


def test_line_break_in_a_password_is_refused() -> None:
    login = ReplicationLogin("airbyte", "two\nlines")
    with pytest.raises(EngineError, match="line break"):
        postgres_roles.account("docker", login, POSTGRES)
    with pytest.raises(EngineError, match="line break"):
        mariadb._statements(STACK / "mysql", "docker", "secret", "data", login)


def test_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"absent.sql: No such file") as failure:
        postgres_roles.account("docker", ReplicationLogin("a", "b"), tmp_path / "absent.sql")
    assert failure.value.hint.endswith(" checkout -- absent.sql")
