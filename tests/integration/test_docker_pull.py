"""Pulling by a real Docker engine, from a registry on this machine that serves one small image."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from pipectl.engines.docker.api import DockerApi
from pipectl.engines.docker.pull import pull
from pipectl.errors import EngineError
from support.docker_project import docker
from support.needs import need_docker

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.integration, pytest.mark.docker]
LAYERS, LAYER_BYTES = 3, 2_000_000
TYPE = "application/vnd.docker.{}"


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def layer(number: int) -> bytes:
    """A layer with one file that does not get smaller when it is compressed."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        entry = tarfile.TarInfo(f"file {number}")
        entry.size = LAYER_BYTES
        archive.addfile(entry, io.BytesIO(os.urandom(LAYER_BYTES)))
    return packed.getvalue()


class Registry(ThreadingHTTPServer):
    """Serves the image `small:1` by the registry's HTTP API, version 2."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        layers = [layer(number) for number in range(LAYERS)]
        config = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {},
                "rootfs": {"type": "layers", "diff_ids": [digest(each) for each in layers]},
            }
        ).encode()
        self.blobs = {digest(each): each for each in (config, *layers)}

        def described(content: bytes, kind: str) -> dict[str, Any]:
            return {"mediaType": TYPE.format(kind), "size": len(content), "digest": digest(content)}

        manifest = {
            "schemaVersion": 2,
            "mediaType": TYPE.format("distribution.manifest.v2+json"),
            "config": described(config, "container.image.v1+json"),
            "layers": [described(each, "image.rootfs.diff.tar") for each in layers],
        }
        self.manifest = json.dumps(manifest).encode()

    def content(self, path: str) -> tuple[bytes, str] | None:
        if path == "/v2/":
            return b"{}", "application/json"
        kind, name = path.removeprefix("/v2/small/").split("/", 1)
        if kind == "manifests" and name in {"1", digest(self.manifest)}:
            return self.manifest, TYPE.format("distribution.manifest.v2+json")
        return (self.blobs[name], "application/octet-stream") if name in self.blobs else None


class Handler(BaseHTTPRequestHandler):
    server: Registry
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        found = self.server.content(self.path)
        content, kind = found or (b'{"errors": [{"code": "MANIFEST_UNKNOWN"}]}', "application/json")
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Docker-Content-Digest", digest(content))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_HEAD = do_GET  # noqa: N815  the base class's name

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def registry() -> Iterator[str]:
    need_docker()
    with Registry() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_pull_tells_layers_and_sizes(registry: str) -> None:
    image = f"{registry}/small:1"
    shown: list[tuple[str, bool]] = []

    def show(subject: str, progress: str, *, milestone: bool) -> None:
        assert subject == image
        shown.append((progress, milestone))

    unused: Any = None
    try:
        pull(DockerApi(), unused, image, show)
        assert DockerApi().has_image(image)
    finally:
        docker("rmi", "--force", image)
    assert shown[-1] == ("pulled, 6 MB", True)
    milestones = [text for text, milestone in shown if milestone]
    assert len(milestones) == LAYERS + 1
    assert milestones[-2] == f"{LAYERS} of {LAYERS} layers, downloaded 6 of 6 MB"


def test_an_image_that_the_registry_does_not_have_is_named(registry: str) -> None:
    unused: Any = None
    with pytest.raises(EngineError) as caught:
        pull(DockerApi(), unused, f"{registry}/small:2", lambda *_, **__: None)
    assert caught.value.message == f"The image {registry}/small:2 could not be pulled."
    assert "manifest" in caught.value.detail
    assert "docker pull" in caught.value.hint
