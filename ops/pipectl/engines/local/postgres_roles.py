"""Statements for the roles of a cluster: a superuser with a random password, and an ordinary owner.

They may run again, and over a cluster of an earlier release, whose owner was its superuser. The superuser
that initdb makes can neither be dropped nor demoted, so it is renamed, and the owner gets what it owns.
Every statement stands on one line, as single-user mode reads them.
"""

# ruff: noqa: S608 -- names and strings are quoted, all else is this module's

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pipectl.engines.local.install import one_line
from pipectl.engines.local.server_config import read_statements

if TYPE_CHECKING:
    from pathlib import Path

    from pipectl.models import ReplicationLogin

# The role that initdb makes has this number, the first object of a user this one.
_BOOTSTRAP, _FIRST = 10, 16384
_RENAMER = "pipectl_renamer"
# In a file for psql: :"name" is an identifier, :'name' a string.
_VARIABLE = re.compile(r""":(?P<mark>["'])(?P<name>\w+)(?P=mark)""")
# What the superuser of an earlier release owns, as statements that give it to {owner}.
_OWNED = f"""
    SELECT format('ALTER SCHEMA %I OWNER TO {{owner}}', nspname) FROM pg_namespace
        WHERE nspowner = {_BOOTSTRAP} AND oid >= {_FIRST}
    UNION ALL SELECT format('ALTER TABLE %s OWNER TO {{owner}}', oid::regclass) FROM pg_class
        WHERE relowner = {_BOOTSTRAP} AND oid >= {_FIRST} AND relkind IN ('r', 'p', 'v', 'm', 'f')
    UNION ALL SELECT format('ALTER SEQUENCE %s OWNER TO {{owner}}', oid::regclass) FROM pg_class
        WHERE relowner = {_BOOTSTRAP} AND oid >= {_FIRST} AND relkind = 'S'
        AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = pg_class.oid AND deptype IN ('a', 'i'))
    UNION ALL SELECT format('ALTER ROUTINE %s OWNER TO {{owner}}', oid::regprocedure) FROM pg_proc
        WHERE proowner = {_BOOTSTRAP} AND oid >= {_FIRST}
        AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = pg_proc.oid AND deptype = 'e')
    UNION ALL SELECT format('ALTER TYPE %s OWNER TO {{owner}}', oid::regtype) FROM pg_type
        WHERE typowner = {_BOOTSTRAP} AND oid >= {_FIRST} AND typtype IN ('e', 'd', 'r')
        AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = pg_type.oid AND deptype = 'e')
    UNION ALL SELECT format('ALTER PUBLICATION %I OWNER TO {{owner}}', pubname) FROM pg_publication
        WHERE pubowner = {_BOOTSTRAP}"""


def superuser(owner: str) -> str:
    """Return the name of the superuser beside an ordinary `owner`."""
    return "postgres" if owner != "postgres" else "pipectl"


def rename_superuser(owner: str) -> list[str]:
    """Give the superuser of an earlier release, who was the owner, a name of its own, in a run of its own."""
    # A session cannot rename its own user, so it becomes another one for that.
    rename = (
        f"IF (SELECT rolname FROM pg_roles WHERE oid = {_BOOTSTRAP}) = {literal(owner)} THEN"
        f" CREATE ROLE {_RENAMER} SUPERUSER;"
        f" PERFORM set_config('session_authorization', '{_RENAMER}', true);"
        f" ALTER ROLE {identifier(owner)} RENAME TO {identifier(superuser(owner))}; END IF;"
    )
    return [_block(rename)]


def roles(owner: str, password: str, superuser_password: str) -> list[str]:
    """Make the owner, or bring it along: no superuser, it reads no files and starts no programs.

    It makes replication slots, and sees who else is at work.
    """
    rights = "LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS REPLICATION"
    return [
        f"DROP ROLE IF EXISTS {_RENAMER}",
        _made(owner),
        f"ALTER ROLE {identifier(owner)} {rights} PASSWORD {literal(password)}",
        f"GRANT pg_read_all_stats TO {identifier(owner)}",
        password_statement(superuser(owner), superuser_password),
    ]


def ownership(owner: str, database: str) -> list[str]:
    """Give the owner its database with all in it: in that database."""
    # Within the block's string, format's string and an identifier.
    query = " ".join(_OWNED.split()).format(owner=identifier(owner).replace("'", "''").replace("%", "%%"))
    give = f"FOR change IN {query} LOOP EXECUTE change; END LOOP;"
    return [
        f"ALTER DATABASE {identifier(database)} OWNER TO {identifier(owner)}",
        _block(give, "DECLARE change text;"),
    ]


def account(owner: str, login: ReplicationLogin, file: Path) -> list[str]:
    """Read the statements that make a replication account, its psql variables replaced as psql does.

    An account that exists gets the password.
    """
    values = {"owner": owner, "reader": login.user, "password": login.password}

    def quoted(variable: re.Match[str]) -> str:
        value = values[variable["name"]]
        return identifier(value) if variable["mark"] == '"' else literal(value)

    statements = [_VARIABLE.sub(quoted, statement) for statement in read_statements(file)]
    return [_made(login.user), *(re.sub(r"^CREATE ROLE\b", "ALTER ROLE", text) for text in statements)]


def password_statement(role: str, password: str) -> str:
    """Set a password."""
    return f"ALTER ROLE {identifier(role)} PASSWORD {literal(password)}"


def identifier(name: str) -> str:
    """Quote a name."""
    return '"' + one_line(name).replace('"', '""') + '"'


def literal(text: str) -> str:
    """Quote a string; standard_conforming_strings leaves backslashes alone."""
    return "'" + one_line(text).replace("'", "''") + "'"


def _made(role: str) -> str:
    exists = f"EXISTS (SELECT FROM pg_roles WHERE rolname = {literal(role)})"
    return _block(f"IF NOT {exists} THEN CREATE ROLE {identifier(role)}; END IF;")


def _block(body: str, declarations: str = "") -> str:
    return f"DO {literal(f'{declarations} BEGIN {body} END')}"
