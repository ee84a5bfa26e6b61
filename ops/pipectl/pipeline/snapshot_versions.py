"""Which versions of servers and of Airflow can use what others have made."""

from __future__ import annotations

import re


def data_problem(made_with: dict[str, str], now: dict[str, str]) -> str:
    """Say which server or Airflow cannot use data that others have made; empty if all can."""
    postgres, mysql, airflow = (
        (made_with.get(name, ""), now.get(name, "")) for name in ("postgres", "mysql", "airflow")
    )
    if all(postgres) and numbers(postgres[0])[0] != numbers(postgres[1])[0]:
        return f"its data is PostgreSQL {postgres[0]}'s, and here runs {postgres[1]}"
    if all(mysql) and ("MariaDB" in mysql[0]) != ("MariaDB" in mysql[1]):
        return f"its data is that of {_mysql(mysql[0])}, and here runs {_mysql(mysql[1])}"
    for name, (then, here) in (("MySQL", mysql), ("Airflow", airflow)):
        if then and here and numbers(then) > numbers(here):
            return f"its data is that of {name} {then}, and here runs {here}, which is older"
    return ""


def dump_problem(made_with: dict[str, str], now: dict[str, str]) -> str:
    """Say which Airflow is older than what made the dumps; empty if it is not. Servers may be older."""
    then, here = made_with.get("airflow", ""), now.get("airflow", "")
    if then and here and numbers(then) > numbers(here):
        return f"it was made by Airflow {then}, and here runs {here}, which is older"
    return ""


def is_newer(version: str, than: str) -> bool:
    """Whether a version of pipectl is newer than another one; one in the making counts as its release."""
    first, second = ([int(part) for part in re.findall(r"[0-9]{1,9}", text)[:3]] for text in (version, than))
    return first > second


def _mysql(version: str) -> str:
    return version if "MariaDB" in version else f"MySQL {version}"


def numbers(version: str) -> tuple[int, ...]:
    """Return the first two numbers of a version; 0 for one that is not known."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2]) or (0,)
