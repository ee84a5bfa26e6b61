"""Docker Compose and its errors: the only module that imports python_on_whales."""

from __future__ import annotations

import os
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pipectl.engines.docker.api import PULL_HINT, SEE_SERVICES
from pipectl.engines.docker.connection import WITHOUT_DOCKER, no_docker_command
from pipectl.engines.project import restoring
from pipectl.engines.requirements import explained
from pipectl.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
DETAIL_LINES = 10
INDEX_HINT = (
    "stack/airflow/install.env says how uv reaches packages, by lines such as HTTPS_PROXY=ADDRESS."
    " Then run the command again."
)
# In the words of the docker command, which may take Compose's options for its own, and of Podman's.
NO_COMPOSE = (
    "is not a docker command",
    "'docker --help'",
    "unknown shorthand flag: 'f'",
    "looking up compose provider failed",
)
_ENVIRONMENT = threading.Lock()
OTHER_API = re.compile(r"client version \S+ is too (?:old|new)\. [^,\n]*")


@dataclass(frozen=True)
class Compose:
    """Compose for one project, on the engine at `host`. Every method may raise EngineError."""

    host: str
    project_name: str
    files: tuple[Path, ...]
    env_path: Path

    def version(self) -> str:
        """Return the version of the Compose plugin in its own words."""
        with self._explained("Docker Compose does not work.", "See what it says: docker compose version"):
            return str(self._client.compose.version()).strip()

    def service(self, name: str, variables: Mapping[str, str]) -> dict[str, Any]:
        """Return a service as the files describe it, `variables` in the place of those of stack/.env."""
        with _environment(variables):
            return self._services()[name]

    def planned(self, variables: Mapping[str, str]) -> dict[str, dict[str, Any]]:
        """Return all services as `service` does one."""
        with _environment(variables):
            return self._services()

    def _services(self) -> dict[str, dict[str, Any]]:
        with self._explained("stack/docker-compose.yml cannot be used."):
            config: dict[str, Any] = self._client.compose.config(return_json=True)
        return dict(config["services"])

    def pull(self, image: str) -> None:
        """Pull an image with the logins that the docker command knows."""
        with self._explained(f"The image {image} could not be pulled.", PULL_HINT.format(image=image)):
            self._client.image.pull(image, quiet=True)

    def create(self) -> None:
        """Make missing networks, volumes and containers, and replace what is configured otherwise."""
        with self._explained("Compose could not make the stack's containers."):
            self._client.compose.create()

    def remove_containers(self, ids: list[str]) -> None:
        """Stop and remove containers."""
        with self._explained("Docker could not remove the containers of the other executor."):
            self._client.container.stop(ids)
            self._client.container.remove(ids)

    def make_volume(self, name: str, labels: Mapping[str, str]) -> None:
        """Make an empty volume."""
        with self._explained(f"The volume {name} could not be made."):
            self._client.volume.create(name, labels=dict(labels))

    def remove_volume(self, name: str) -> None:
        """Delete a volume."""
        with self._explained(f"The volume {name} could not be deleted."):
            self._client.volume.remove(name)

    def install_packages(self) -> str:
        """Install what requirements.txt asks for beside what runs, and return what that says.

        Raises UsageError for a mistake in the file, EngineError if packages cannot be had.
        """
        from python_on_whales.exceptions import DockerException

        with self._explained("The packages of requirements.txt could not be installed."):
            try:
                said = self._client.compose.run(
                    "airflow-init", envs={"STEP": "true"}, remove=True, dependencies=False, tty=False
                )
            except DockerException as error:
                raise explained(f"{error.stdout}\n{error.stderr}", error.return_code, INDEX_HINT) from error
        return str(said or "").strip()

    def logs(self, services: list[str], *, tail: int, follow: bool) -> Iterator[tuple[str, str]]:
        """Yield (container, line) of the services' logs; the container without the project's name."""
        with self._explained("Docker could not read the logs."):
            for _, data in self._client.compose.logs(services, tail=str(tail), follow=follow, stream=True):
                # Compose writes `container  | text`, coloured even if its output is a pipe.
                container, _, text = ESCAPE.sub("", data.decode(errors="replace")).partition("| ")
                yield container.strip(), text.rstrip("\n")

    @cached_property
    def _client(self) -> Any:  # noqa: ANN401  python_on_whales, which is imported here alone
        from python_on_whales import DockerClient  # 230 ms

        for path in self.files:
            if not path.is_file():
                raise EngineError(f"{path} is missing.", hint=f"Get it back: {restoring(path)}")
        return DockerClient(
            host=self.host,
            compose_files=[*self.files],
            compose_project_name=self.project_name,
            compose_env_files=[self.env_path] if self.env_path.exists() else [],
        )

    @contextmanager
    def _explained(self, message: str, hint: str = SEE_SERVICES) -> Iterator[None]:
        from python_on_whales.client_config import ClientNotFoundError
        from python_on_whales.exceptions import DockerException

        try:
            yield
        except (ClientNotFoundError, FileNotFoundError) as error:
            raise no_docker_command() from error
        except DockerException as error:
            detail = ESCAPE.sub("", error.stderr or error.stdout or "").strip()
            if any(words in detail for words in NO_COMPOSE):
                raise EngineError(
                    "Docker has no Compose plugin.",
                    hint=f"Install it (Debian: apt install docker-compose-plugin). {WITHOUT_DOCKER}",
                ) from error
            if match := OTHER_API.search(detail):
                unset = "Unset DOCKER_API_VERSION, or u" if os.environ.get("DOCKER_API_VERSION") else "U"
                raise EngineError(
                    f"The docker command and the engine at {self.host} have no version of the API in common.",
                    hint=f"{unset}pdate the older of the two. {WITHOUT_DOCKER}",
                    detail=match[0],
                ) from error
            raise EngineError(
                message,
                hint=hint,
                detail="\n".join(detail.splitlines()[-DETAIL_LINES:]),
            ) from error


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Let Compose take variables before those of its file, for one thread at a time."""
    with _ENVIRONMENT:
        before = dict(os.environ)
        os.environ.update(variables)
        try:
            yield
        finally:
            for variable in variables.keys() - before.keys():
                del os.environ[variable]
            os.environ.update(before)
