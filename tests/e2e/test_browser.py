"""Airflow's user interface in a real browser, as people use it: the pipeline without a terminal.

The tests share one stack and one browser per engine, and stand in the order in which a user does the same.
PIPECTL_SCREENSHOTS names a folder for pictures.
"""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest
from conftest import missing
from docker_project import new_project
from project_copy import Project, copy_project
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException, WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from selenium.webdriver.remote.webelement import WebElement

pytestmark = [pytest.mark.e2e, pytest.mark.browser]
DAG_ID = "generate_transaction_and_labels"
WAIT_SECONDS = 120
# No name look-ups or downloads of its own, and no sandbox: CI runs as root.
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1400,900"
)


Found = TypeVar("Found")


@contextmanager
def new_local_project(folder: Path) -> Iterator[Project]:
    """Copy the project to `folder` for the time of a block, and end what it leaves behind."""
    project = copy_project(folder)
    try:
        yield project
    finally:
        project.run("down", "--volumes", "--yes")


class Page:
    """A browser that looks at one Airflow."""

    def __init__(self, driver: webdriver.Chrome, url: str) -> None:
        self.driver = driver
        self.url = url

    def open(self, path: str) -> None:
        self.driver.get(self.url + path)

    def find(self, selector: str, text: str = "") -> WebElement:
        """Wait for a visible element, the first that holds `text`."""

        def look(driver: webdriver.Chrome) -> WebElement | None:
            for element in driver.find_elements(By.CSS_SELECTOR, selector):
                if element.is_displayed() and text in element.text:
                    return element
            return None

        found = self.until(look, f"{selector} with {text!r}")
        assert found is not None
        return found

    def click(self, selector: str, text: str = "") -> None:
        """Click an element as soon as that is possible."""

        def press(_: webdriver.Chrome) -> bool:
            try:
                self.find(selector, text).click()
            except WebDriverException:
                return False
            return True

        self.until(press, f"a click on {selector}")

    def until(self, condition: Callable[[webdriver.Chrome], Found], what: str) -> Found:
        """Wait for a condition."""
        wait = WebDriverWait(self.driver, WAIT_SECONDS, 0.1, [StaleElementReferenceException])
        return wait.until(condition, f"waited for {what}")

    def wait_for_text(self, text: str) -> None:
        """Wait until the page shows a text."""
        self.until(lambda driver: text in driver.find_element(By.TAG_NAME, "body").text, repr(text))

    def picture(self, name: str) -> None:
        """Take a picture where pictures are wanted."""
        if folder := os.environ.get("PIPECTL_SCREENSHOTS"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.driver.save_screenshot(str(Path(folder) / f"{name}.png"))


@pytest.fixture(scope="module", params=["local", pytest.param("docker", marks=pytest.mark.docker)])
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    make = {"local": new_local_project, "docker": new_project}[request.param]
    with make(tmp_path_factory.mktemp("browser") / "project") as found:
        found.run("up")
        yield found


@pytest.fixture(scope="module")
def page(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    browser, controller = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or controller is None:
        missing("browser", "chromium and chromedriver are not on PATH (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options, webdriver.ChromeService(controller))
    yield Page(driver, project.json("status")["airflow"]["url"])
    driver.quit()


def test_the_documented_login_works(page: Page) -> None:
    page.open("/")
    page.find("input[name=username]").send_keys("admin")
    page.find("input[name=password]").send_keys("admin")
    page.click("button[type=submit]")
    page.find("[data-testid=nav-dags-link]")


def test_the_dag_is_listed_and_can_be_switched_on(page: Page, project: Project) -> None:
    page.open("/dags")
    page.find(f"a[href='/dags/{DAG_ID}']", DAG_ID)
    assert project.json("status")["dag"]["paused"]
    page.click("[data-testid=toggle-pause]")
    page.until(lambda _: not project.json("status")["dag"]["paused"], "the DAG to be on")
    page.picture("dags")


def test_a_run_that_the_button_triggers_succeeds(page: Page, project: Project) -> None:
    page.open(f"/dags/{DAG_ID}")
    page.click("[data-testid=trigger-dag-button]")
    page.click("[role=dialog] button:not([disabled])", "Trigger")

    def manual_runs_succeeded(_: webdriver.Chrome) -> bool:
        runs = project.json("runs")["runs"]
        return [run["state"] for run in runs if run["run_type"] == "manual"] == ["success"]

    page.until(manual_runs_succeeded, "the triggered run to succeed")
    page.open(f"/dags/{DAG_ID}")
    page.find("[data-testid^='grid-manual__'][data-testid$='generate_labels']")
    page.picture("dag")


def test_the_log_of_a_task_shows_what_the_script_wrote(page: Page, project: Project) -> None:
    run_id = next(run["run_id"] for run in project.json("runs")["runs"] if run["run_type"] == "manual")
    written = {"generate_transactions": "event=batch_written", "generate_labels": "event=labels_written"}
    for task, line in written.items():
        page.open(f"/dags/{DAG_ID}/runs/{run_id}/tasks/{task}")
        page.wait_for_text(line)
        page.picture(f"log-{task}")


def test_both_connections_are_listed_under_admin(page: Page) -> None:
    page.open("/connections")
    for name in ("airbyte_postgres", "airbyte_mysql"):
        page.find("td", name)
    page.picture("connections")


def test_the_data_is_reconciled_after_a_day_without_a_terminal(project: Project) -> None:
    assert project.json("verify-db", "--expect", "reconciled")["ok"]
    assert project.json("verify-db", "--expect", "populated")["ok"]
