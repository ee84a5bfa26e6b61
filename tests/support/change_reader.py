"""The account that reads changes, and a stream of PostgreSQL's as Airbyte opens it."""

from __future__ import annotations

from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from pipectl import published
from pipectl.databases import Databases
from pipectl.models import ReplicationLogin

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.script_servers import Servers

LOGIN = ReplicationLogin("airbyte", "sesame")


def reader_of(servers: Servers) -> Databases:
    """Return both databases as that account opens them."""
    postgres, mysql = servers.addresses
    return Databases(LOGIN.at(postgres), LOGIN.at(mysql))


@contextmanager
def stream(servers: Servers, **options: Any) -> Iterator[Any]:
    """Give a cursor on which the changes of pipectl's slot come; `options` are start_replication's."""
    import psycopg2
    from psycopg2.extras import LogicalReplicationConnection

    connection = psycopg2.connect(
        host="127.0.0.1",
        port=servers.postgres_port,
        dbname="airbyte",
        user=LOGIN.user,
        password=LOGIN.password,
        connection_factory=LogicalReplicationConnection,
    )
    with closing(connection), connection.cursor() as cursor:
        cursor.start_replication(
            slot_name=published.SLOT,
            decode=False,
            options={"proto_version": "1", "publication_names": published.PUBLICATION},
            **options,
        )
        yield cursor
