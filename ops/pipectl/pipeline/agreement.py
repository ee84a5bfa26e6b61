"""Whether the services agree on the secrets that they share: what one signs or locks, another must open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

from pipectl.engines.airflow_env import SHARED_SECRETS

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

METADATA_PASSWORD = "AIRFLOW_POSTGRES_PASSWORD"  # noqa: S105  the name of a variable
METADATA_LOGIN = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"


@dataclass(frozen=True)
class Disagreement:
    """Services that were started with another value of a secret than stack/.env has now.

    `among_themselves` if they differ from each other too: then what one signs another refuses.
    """

    variable: str
    services: tuple[str, ...]
    among_themselves: bool


def disagreements(
    started: Mapping[str, Mapping[str, str]], variables: Mapping[str, str], user_settings: Collection[str]
) -> tuple[Disagreement, ...]:
    """Return the secrets that services do not agree on; `started` has the variables of those that run.

    `variables` are those of stack/.env. What user.env sets, by the names `user_settings`, need be the same
    in all services alone.
    """
    found = []
    for name, variable in {**SHARED_SECRETS, METADATA_LOGIN: METADATA_PASSWORD}.items():
        values = {service: known[name] for service, known in started.items() if name in known}
        wanted = variables.get(variable, "")
        others = tuple(
            service
            for service, value in values.items()
            if not _has(value, wanted, whole=name in SHARED_SECRETS)
        )
        differ = len(set(values.values())) > 1
        if others and wanted and (differ or name not in user_settings):
            found.append(Disagreement(variable, others, differ))
    return tuple(found)


def _has(value: str, secret: str, *, whole: bool) -> bool:
    return value == secret if whole else f":{quote(secret, safe='')}@" in value
