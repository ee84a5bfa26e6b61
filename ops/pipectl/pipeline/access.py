"""Addresses of Airflow and the databases, given out only if they are this project's own.

While this project's stack does not run, another project's may listen on the same port: questions would be
answered with that project's data, and a reset would delete it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pipectl.databases import Databases
from pipectl.errors import (
    AirflowSilentError,
    DatabaseSilentError,
    ForeignAirflowError,
    ForeignDatabaseError,
    UsageError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pipectl.engines.base import Engine
    from pipectl.models import AirflowAddress, Service

HINT = "Start the stack: pipectl up\nWhat runs already: pipectl status"
LEFT = "of an earlier start of this project"
DOWN = {"stopped", "crashed"}


def airflow_address(engine: Engine) -> AirflowAddress:
    """Where this project's Airflow answers; AirflowError if it does not run."""
    address = engine.airflow()
    if "webserver" in down_services(engine.services()):
        port = urlsplit(address.url).port or 0
        if engine.holds("webserver", port):
            raise AirflowSilentError(
                f"This project's Airflow is not running: what answers at {address.url} is {LEFT}.", hint=HINT
            )
        if who := engine.stranger(port):
            raise ForeignAirflowError(
                f"This project's Airflow is not running: at {address.url} answers {who}, not this project's.",
                hint=HINT,
            )
        raise AirflowSilentError("This project's Airflow is not running.", hint=HINT)
    return address


def business_databases(engine: Engine) -> Databases:
    """The two business databases; DatabaseError if this project's own do not run."""
    postgres, mysql = engine.databases()
    down = down_services(engine.services())
    missing = [address for address in (postgres, mysql) if address.service in down]
    if missing:
        names = " and ".join(address.service for address in missing)
        left = [
            f" What answers at {address.host}:{address.port} is {LEFT}."
            for address in missing
            if engine.holds(address.service, address.port)
        ]
        strangers = [
            f" At {address.host}:{address.port} answers {who}, not this project's."
            for address in missing
            if not engine.holds(address.service, address.port) and (who := engine.stranger(address.port))
        ]
        error = ForeignDatabaseError if strangers else DatabaseSilentError
        raise error(f"Not running in this project: {names}.{''.join((*left, *strangers))}", hint=HINT)
    return Databases(postgres, mysql)


def own_databases(engine: Engine) -> Databases:
    """The two business databases, for what deletes; UsageError if stack/.env places one elsewhere."""
    own = {service.name for service in engine.services()}
    names = [address.service for address in engine.databases() if address.service not in own]
    if names:
        raise UsageError(
            f"{' and '.join(names)} runs elsewhere (stack/.env); no reset touches it, nothing was deleted.",
            hint="Empty it by its own means.",
        )
    return business_databases(engine)


def down_services(services: tuple[Service, ...]) -> set[str]:
    """Names of the services that do not run. A database that runs elsewhere is no service of the engine."""
    return {service.name for service in services if service.state in DOWN}


def unknown_service(name: str, known: Iterable[str]) -> UsageError:
    """Return the error for a name that no service has."""
    from pipectl.airflow_health import did_you_mean  # noqa: PLC0415  15 ms, for an error alone

    known = tuple(known)
    return UsageError(
        f"There is no service {name!r}.", hint=f"{did_you_mean(name, known)}There are: {', '.join(known)}."
    )
