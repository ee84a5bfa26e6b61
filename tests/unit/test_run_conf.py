"""The conf of a run: what was typed, and what the DAG's params make of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pipectl.errors import ExitCode, UsageError
from pipectl.models import DagParam, ParsedDag
from pipectl.observer import Observer
from pipectl.pipeline import run_conf

if TYPE_CHECKING:
    from pathlib import Path

HISTORY = {
    "transactions": DagParam(1_000_000, {"type": "integer", "minimum": 1}),
    "days": DagParam(90, {"type": "integer", "minimum": 1, "maximum": 3650}),
    "mode": DagParam("full", {"enum": ["full", "part"]}),
    "note": DagParam(None, {"type": ["null", "string"]}),
    "day": DagParam("2026-01-31", {"type": "string", "format": "date"}),
    "label": DagParam("text without a schema", {}),
    "anything": DagParam(1, {}),
}


class Told(Observer):
    def __init__(self) -> None:
        self.sentences: list[str] = []

    def report(self, sentence: str) -> None:
        self.sentences.append(sentence)


def conf_of(*texts: str, params: dict[str, DagParam] | None = None, observer: Observer | None = None) -> Any:
    dag = ParsedDag(False, has_import_errors=False, file="", next_run="", dag_id="load", params=params or {})
    return run_conf.conf_for(dag, run_conf.parse(texts), observer or Observer())


def refusal(*texts: str, params: dict[str, DagParam] | None = None) -> UsageError:
    with pytest.raises(UsageError) as caught:
        conf_of(*texts, params=HISTORY if params is None else params)
    assert caught.value.code == ExitCode.USAGE
    return caught.value


def test_nothing_given_is_nothing() -> None:
    assert conf_of() is None
    assert conf_of(params=HISTORY) is None
    assert conf_of("{}") == {}


def test_objects_and_assignments_are_merged_and_the_last_one_counts() -> None:
    given = ('{"a": 1, "b": 2}', "b=3", "c=x=y", '{"d": null}', "e=")
    assert conf_of(*given) == {"a": 1, "b": 3, "c": "x=y", "d": None, "e": ""}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("days=7", 7),
        ("note=7", "7"),
        ("note=null", "null"),
        ("day=2026-02-01", "2026-02-01"),
        ("label=7", "7"),
        ("anything=7", 7),
        ('anything={"a": [1]}', {"a": [1]}),
        ("anything=true", True),
        ("anything=yes", "yes"),
        ("anything=NaN", "NaN"),
        ("other=1e999", "1e999"),
        ("other=1.5", 1.5),
        ("mode=part", "part"),
    ],
)
def test_a_value_has_the_type_that_its_param_takes(text: str, expected: object) -> None:
    name = text.split("=", maxsplit=1)[0]
    assert conf_of(text, params=HISTORY) == {name: expected}


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "1", "null", '"a=b"', "a b", "{a=1}", '{"a": NaN}', '{"a": 1e999}', "=1"]
)
def test_what_is_neither_an_object_nor_an_assignment_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--conf"):
        run_conf.parse((text,))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("=3", "--conf names no key before its equals sign."),
        ("days", "--conf is neither a JSON object nor KEY=VALUE."),
        ("{days=7}", "--conf is not JSON: Expecting property name"),
        ("@missing.json", "The file of --conf @missing.json cannot be read: No such file or directory."),
        ("@.", "The file of --conf @. cannot be read: it is no ordinary file."),
        ("@text", "The file of --conf @text is not JSON: Expecting value"),
        ("@list", "The file of --conf @list must be a JSON object."),
    ],
)
def test_what_is_wrong_with_a_conf_is_told_and_what_is_understood(
    text: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("days")
    (tmp_path / "list").write_text("[1]")
    error = refusal(text)
    assert error.message.startswith(told)
    assert error.hint == run_conf.EXAMPLE


def test_an_object_may_stand_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a=1.json"
    path.write_text('{"days": 7}\n')
    assert conf_of(f"@{path}", "mode=part", params=HISTORY) == {"days": 7, "mode": "part"}


@pytest.mark.parametrize("text", ['{"a": "\\u0000"}', '{"\\u0000": 1}', '{"a": "\\ud800"}', "a=\udc80"])
def test_what_no_database_stores_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--conf"):
        conf_of(text)


@pytest.mark.parametrize("text", ["{" + '"a":{' * 101 + "}" * 102, "a=" + "[" * 101 + "]" * 101])
def test_what_is_nested_too_deeply_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="nested more than 100 levels"):
        conf_of(text)


def test_each_wrong_key_is_named_with_what_was_expected() -> None:
    error = refusal("days=ninety", "transactions=0")
    assert error.message == (
        "load does not take this --conf: transactions: 0 is less than the minimum of 1;"
        " days: 'ninety' is not of type 'integer'."
    )
    assert error.hint == (
        "transactions takes integer, at least 1, by default 1000000."
        " days takes integer, at least 1, at most 3650, by default 90."
    )


@pytest.mark.parametrize(
    ("text", "reason", "expected"),
    [
        ("mode=all", "mode: 'all' is not one of ['full', 'part']", "one of full, part"),
        ("day=31.1.2026", "day: '31.1.2026' is not a 'date'", "string, a date"),
        ('{"note": 1}', "note: 1 is not of type 'null', 'string'", "null or string"),
    ],
)
def test_what_was_expected_is_told_in_the_schemas_words(text: str, reason: str, expected: str) -> None:
    error = refusal(text)
    assert reason in error.message
    assert expected in error.hint


def test_the_place_of_a_fault_inside_a_value_is_told() -> None:
    params = {"rates": DagParam([], {"type": "array", "items": {"type": "number"}})}
    assert "rates: 1: 'x' is not of type 'number'" in refusal('rates=[1, "x"]', params=params).message


def test_a_param_without_a_default_needs_a_value() -> None:
    params = {"day": DagParam(None, {"type": "string"})}
    error = refusal(params=params)
    assert error.message == "load does not take this --conf: day: it needs a value."
    assert conf_of("day=x", params=params) == {"day": "x"}


def test_a_mistyped_key_names_the_one_that_was_meant() -> None:
    error = refusal("transactons=10")
    assert "transactons: it has no such param." in error.message
    assert error.hint == "Did you mean transactions?"


@pytest.mark.parametrize(
    ("key", "meant"),
    [("entirely_new", ""), ("other", " Did you mean note?"), ("labor", " Did you mean label?")],
)
def test_a_key_that_may_be_meant_for_dag_run_conf_is_told_and_passed_on(key: str, meant: str) -> None:
    told = Told()
    assert conf_of(f"{key}=1", params=HISTORY, observer=told) == {key: 1}
    assert told.sentences == [f"load has no param {key!r}: tasks find it in dag_run.conf alone.{meant}"]


def test_a_dag_without_params_takes_any_key() -> None:
    told = Told()
    assert conf_of("transactons=1", observer=told) == {"transactons": 1}
    assert told.sentences == []


def test_a_schema_that_cannot_be_used_leaves_the_decision_to_airflow() -> None:
    for schema in ({"type": "no type"}, {"pattern": "("}, {"$ref": "#/nowhere"}):
        assert conf_of("odd=x", params={"odd": DagParam("", schema)}) == {"odd": "x"}


def test_a_long_value_does_not_fill_the_message() -> None:
    assert len(refusal(f"days={'9' * 5000}x").message) < 300
