"""An engine that sees the project's own service on every port."""

from __future__ import annotations


class Witness:
    """For addresses of servers that a test has started itself."""

    def holds(self, service: str, port: int) -> bool:
        return bool(service and port)

    def stranger(self, port: int) -> str:
        return f"nobody on {port}"
