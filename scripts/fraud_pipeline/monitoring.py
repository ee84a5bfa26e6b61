"""Is what the pipeline writes as it should be: the share of frauds, and how long labels take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from fraud_pipeline.alerts import alert
from fraud_pipeline.errors import SettingError
from fraud_pipeline.slots import lost_slots

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mysql.connector.abstracts import MySQLConnectionAbstract
    from psycopg2.extensions import connection as PostgresConnection  # noqa: N812 -- a class named in lower case

RATE_VARIABLE = "PIPECTL_ALERT_FRAUD_RATE"
LAG_VARIABLE = "PIPECTL_ALERT_LAG_SECONDS"
# Frauds come in bursts, so that a share says something only over many transactions: eight hours of them.
LATEST = 2_000
_LATEST_LABELS = f"""
    SELECT COUNT(*), COALESCE(SUM(is_fraud), 0) FROM (
        SELECT is_fraud FROM fraud_labels ORDER BY transaction_id DESC LIMIT {LATEST}) AS latest"""  # noqa: S608


@dataclass(frozen=True)
class Bounds:
    """What is out of these is alerted."""

    lowest_rate: float = 0.0005
    highest_rate: float = 0.03
    lag_seconds: float = 3600


def bounds_of(environment: Mapping[str, str]) -> Bounds:
    """Read the bounds from PIPECTL_ALERT_FRAUD_RATE and PIPECTL_ALERT_LAG_SECONDS. Raises SettingError."""
    rates = environment.get(RATE_VARIABLE) or f"{Bounds.lowest_rate}:{Bounds.highest_rate}"
    lag = environment.get(LAG_VARIABLE) or str(Bounds.lag_seconds)
    try:
        lowest, highest = map(float, rates.split(":"))
    except ValueError as error:
        raise SettingError(
            f"{RATE_VARIABLE} is {rates!r}, which is not LOWEST:HIGHEST, as in 0.001:0.03."
        ) from error
    try:
        return Bounds(lowest, highest, float(lag))
    except ValueError as error:
        raise SettingError(f"{LAG_VARIABLE} is {lag!r}, which is no number of seconds.") from error


def check(
    mysql: MySQLConnectionAbstract, bounds: Bounds, *, lag_seconds: float, waiting: int
) -> tuple[str, ...]:
    """Alert what is out of bounds, as a warning, and return the events' names."""
    with mysql.cursor() as cursor:
        cursor.execute(_LATEST_LABELS)
        [(labels, frauds)] = cast("list[tuple[int, int]]", cursor.fetchall())
    mysql.rollback()
    rate = float(frauds) / LATEST
    events = []
    if labels == LATEST and not bounds.lowest_rate <= rate <= bounds.highest_rate:
        limit = bounds.lowest_rate if rate < bounds.lowest_rate else bounds.highest_rate
        alert("fraud_rate_out_of_bounds", warning=True, rate=rate, limit=limit, labels=LATEST)
        events.append("fraud_rate_out_of_bounds")
    if waiting and lag_seconds > bounds.lag_seconds:
        alert(
            "label_lag", warning=True, lag_seconds=lag_seconds, limit=bounds.lag_seconds, transactions=waiting
        )
        events.append("label_lag")
    return tuple(events)


def check_slots(postgres: PostgresConnection) -> tuple[str, ...]:
    """Alert each replication slot that is lost, as a warning, and return their names."""
    names = tuple(lost_slots(postgres))
    for name in names:
        alert(
            "replication_slot_lost",
            warning=True,
            slot=name,
            remedy="drop the slot, make it anew, and clear what its reader has",
        )
    return names
