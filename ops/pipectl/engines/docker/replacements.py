"""Which running containers Compose has replaced, and what was different for each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pipectl.engines.changes import StartState, digests, with_dependents
from pipectl.services import databases
from pipectl.services import find as find_service

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from pipectl.engines.docker.api import Container
    from pipectl.settings import Settings

# What containers read at their start, beside what the services of every engine read then.
AIRFLOW_FILES = (
    "entrypoint.sh",
    "stack/airflow/ca.crt",
    "stack/airflow/initialise.py",
    "stack/airflow/install.env",
    "stack/airflow/packages.py",
)
START_FILE = "stack/databases/start.sh"
# Variables that servers read only when their data are made, by their names in stack/.env.
MADE_WITH = {
    "MYSQL_ROOT_PASSWORD": "AIRBYTE_MYSQL_ROOT_PASSWORD",
    "AIRBYTE_REPLICATION_USER": "AIRBYTE_REPLICATION_USER",
    "AIRBYTE_REPLICATION_PASSWORD": "AIRBYTE_REPLICATION_PASSWORD",
}
FILES_LABEL = "org.pipectl.files"
UNKNOWN = ("its configuration",)


@dataclass(frozen=True)
class Replacements:
    """Services that ran and start anew, each with what changed; `changed` are all names of changes."""

    restarts: dict[str, tuple[str, ...]]
    changed: frozenset[str]

    def kept_sentences(self) -> Iterator[str]:
        """Yield a sentence for each changed variable that servers with data do not take over."""
        for name in sorted(self.changed & MADE_WITH.keys()):
            yield (
                f"The databases keep the {MADE_WITH[name]} that their data were made with: "
                "set it back in stack/.env, or change it in the servers too"
            )


def find(
    before: Mapping[str, Container], now: Collection[Container], user_settings: Collection[str]
) -> Replacements:
    """Compare the containers that ran `before`, by name, with those that Compose has made `now`."""
    ports = _ports(before.values()), _ports(now)
    replaced: dict[str, tuple[str, ...]] = {}
    stopped = []
    for container in now:
        old = before.get(container.name)
        if old is None or not old.pid:
            continue
        if old.id != container.id:
            replaced[container.service] = changes(old, container, user_settings, *ports)
        elif not container.pid:
            # Some versions of Compose stop what depends on a container that they replace.
            stopped.append(container.service)
    changed = frozenset(name for names in replaced.values() for name in names)
    running = {container.service for container in now if container.pid}
    # What differs in nothing was replaced because another was.
    if known := tuple(sorted(name for name, names in replaced.items() if names != UNKNOWN)):
        replaced = {name: known if names == UNKNOWN else names for name, names in replaced.items()}
    restarts = dict.fromkeys(stopped, tuple(replaced)) | with_dependents(replaced, running)
    return Replacements(restarts, changed)


def foresee(
    running: Collection[Container],
    services: Mapping[str, dict[str, Any]],
    images: Mapping[str, tuple[str, dict[str, str]]],
    user_settings: Collection[str],
) -> dict[str, tuple[str, ...]]:
    """Return which of the containers that run Compose would replace, and what has changed for each.

    `services` are those of Compose.planned, `images` ids and variables by name. What depends on a container
    that is replaced may start anew too.
    """
    pairs = [
        (container, _planned(container, service, *images[service["image"]]))
        for container in running
        if (service := services.get(container.service))
    ]
    ports = _ports(old for old, _ in pairs), _ports(new for _, new in pairs)
    replaced = {
        old.service: found
        for old, new in pairs
        if (found := changes(old, new, user_settings, *ports)) != UNKNOWN
    }
    return with_dependents(replaced, {container.service for container in running})


def _planned(old: Container, service: dict[str, Any], image: str, variables: Mapping[str, str]) -> Container:
    """Return the container that would replace `old`."""
    # Compose writes a dollar sign twice, and null for a variable that is not set.
    given = {
        name: str(value).replace("$$", "$")
        for name, value in (service.get("environment") or {}).items()
        if value is not None
    }
    published = {
        int(port["target"]): int(port["published"])
        for port in service.get("ports") or ()
        if str(port.get("published", "")).isdecimal()
    }
    return replace(
        old,
        image=image,
        environment={**variables, **given},
        labels=service.get("labels") or {},
        user=service.get("user") or old.user,
        published=published,
    )


def _ports(containers: Iterable[Container]) -> dict[str, int]:
    """Return the published ports by their variables in stack/.env."""
    return {
        service.port_variable: port
        for each in containers
        for port in each.published.values()
        if (service := find_service(each.service))
    }


def changes(
    old: Container,
    new: Container,
    user_settings: Collection[str],
    ports_before: Mapping[str, int],
    ports_now: Mapping[str, int],
) -> tuple[str, ...]:
    """Return what is different in the container that replaces another, in words."""
    if old.image != new.image:
        return ("its image",)
    states = [
        StartState(
            container.environment,
            files_of(container),
            {
                "AIRFLOW_UID" if container.service not in databases() else "its user": container.user,
                "its port": container.published,
            },
            ports,
        )
        for container, ports in ((old, ports_before), (new, ports_now))
    ]
    return states[0].changes(states[1], user_settings) or UNKNOWN


def files_of(container: Container) -> dict[str, str]:
    """Return the digests of the files that a container was made with."""
    return dict(part.rsplit(":", 1) for part in container.labels.get(FILES_LABEL, "").split(",") if part)


def start_files(settings: Settings) -> dict[str, str]:
    """Return the settings to change: digests of what containers read at their start alone.

    They become labels, by which Compose sees a change.
    """
    project = settings.project
    files = {
        "PIPECTL_FILES_AIRFLOW": digests(project, "webserver", *AIRFLOW_FILES),
        "PIPECTL_FILES_METADATA": digests(project, "postgres", START_FILE),
        "PIPECTL_FILES_POSTGRES": digests(project, "airbyte-postgres", START_FILE),
        "PIPECTL_FILES_MYSQL": digests(project, "airbyte-mysql", START_FILE),
    }
    values = {
        name: ",".join(f"{path}:{digest}" for path, digest in found.items()) for name, found in files.items()
    }
    return {name: value for name, value in values.items() if (settings.variables.get(name) or "") != value}
