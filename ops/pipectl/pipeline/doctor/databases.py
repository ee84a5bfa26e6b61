"""Checks of the business databases: logins, replication, the binary log, and labels that wait."""

from __future__ import annotations

from pipectl.databases import Databases
from pipectl.errors import PipectlError
from pipectl.names import counted, size
from pipectl.pipeline import consumers
from pipectl.pipeline.capture_checks import server_checks
from pipectl.pipeline.doctor.checks import LOCK_SECONDS, Desk, Finding, bad, check, fine
from pipectl.services import business_databases

DEFAULT_LAG = 3600.0


@check("databases")
def databases(desk: Desk) -> Finding:
    """Both business databases answer, and are this project's."""
    names = [each.name for each in business_databases()]
    both = desk.databases(*names)
    for name in names:
        try:
            both.ping(name)
        except PipectlError as error:
            return bad(error.message.removesuffix("."), error.hint)
    return fine(f"{' and '.join(names)} answer")


@check("replication-slots")
def replication_slots(desk: Desk) -> Finding:
    """No reader of PostgreSQL's changes has lost any, or is about to, and another one could come."""
    both = desk.databases("airbyte-postgres")
    slots = consumers.slots(both)
    for slot in slots:
        if slot.danger:
            return bad(f"the slot {slot.danger}", slot.rescue)
    if failed := _server_problem(desk, both, "postgres"):
        return failed
    told = ", ".join(f"{slot.name} lags by {size(slot.lag_bytes or 0)}" for slot in slots)
    return fine(told or "no slot")


@check("binary-log")
def binary_log(desk: Desk) -> Finding:
    """MySQL's binary log has what readers of changes need, and does not fill the disk."""
    both = desk.databases("airbyte-mysql")
    log = consumers.binary_log(both)
    if log and not log.limit_bytes and log.bytes > consumers.BINLOG_LIMIT_BYTES:
        return bad(
            f"it has {size(log.bytes)}, and this server knows no bound in bytes",
            "Keep it for less: binlog_expire_logs_seconds in stack/mysql/server.cnf, then run: pipectl up",
        )
    if failed := _server_problem(desk, both, "mysql"):
        return failed
    bound = f" of {size(log.limit_bytes)}" if log and log.limit_bytes else ""
    return fine(f"{size(log.bytes)}{bound}" if log else "this account may not ask for it")


def _server_problem(desk: Desk, both: Databases, database: str) -> Finding | None:
    login = desk.settings.replication_login
    if not login.password:
        return None
    own = Databases(login.at(both.postgres), login.at(both.mysql), lock_seconds=LOCK_SECONDS)
    for found in server_checks(own, database):
        if not found.ok:
            return bad(f"{found.name}: {found.found}", found.remedy)
    return None


@check("label-lag")
def label_lag(desk: Desk) -> Finding:
    """No transaction waits for its label for longer than PIPECTL_ALERT_LAG_SECONDS."""
    limit = float(desk.settings.variables.get("PIPECTL_ALERT_LAG_SECONDS") or DEFAULT_LAG)
    waiting, seconds = desk.databases(*(each.name for each in business_databases())).label_lag()
    if not waiting:
        return fine("no transaction waits")
    found = f"{counted(waiting, 'transaction')} wait for labels, the oldest for {seconds:.0f} s"
    if seconds <= limit:
        return fine(found)
    return bad(f"{found}, of {limit:.0f} s at most", "pipectl trigger")
