"""Airflow's user interface in a real browser, as people use it: the pipeline without a terminal.

PIPECTL_SCREENSHOTS names a folder for pictures.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException, WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from support.docker_project import new_docker_project
from support.needs import need_program
from support.project_copy import DAG_ID, Project, new_local_project
from support.waiting import WAIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from selenium.webdriver.remote.webelement import WebElement

pytestmark = [pytest.mark.e2e, pytest.mark.browser]
# No name look-ups or downloads of its own, and no sandbox: CI runs as root.
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1400,900"
)


Found = TypeVar("Found")


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


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = need_program("browser", "chromium", "google-chrome")
    for flag in (*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options, webdriver.ChromeService(need_program("browser", "chromedriver")))
    yield driver
    driver.quit()


# The pages are Airflow's, the same on both engines.
@pytest.fixture(
    scope="module",
    params=["local", pytest.param("docker", marks=[pytest.mark.docker, pytest.mark.slow])],
)
def stack(
    request: pytest.FixtureRequest, browser: webdriver.Chrome, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Project]:
    del browser  # without one no stack is started
    make = {"local": new_local_project, "docker": new_docker_project}[request.param]
    with make(tmp_path_factory.mktemp("browser") / "project") as made:
        yield made


@pytest.fixture
def new_page(project: Project, browser: webdriver.Chrome) -> Page:
    """A browser that nobody has logged in with."""
    page = Page(browser, project.client().url)
    page.open("/")
    browser.delete_all_cookies()
    browser.execute_script("localStorage.clear(); sessionStorage.clear()")
    return page


@pytest.fixture
def page(new_page: Page) -> Page:
    """A browser that the documented login has opened Airflow with."""
    new_page.open("/")
    new_page.find("input[name=username]").send_keys("admin")
    new_page.find("input[name=password]").send_keys("admin")
    new_page.click("button[type=submit]")
    new_page.find("[data-testid=nav-dags-link]")
    return new_page


def test_the_documented_login_works_and_no_other(new_page: Page) -> None:
    new_page.open("/")
    new_page.find("input[name=username]").send_keys("admin")
    new_page.find("input[name=password]").send_keys("wrong")
    new_page.click("button[type=submit]")
    new_page.wait_for_text("Invalid credentials")
    new_page.find("input[name=password]").send_keys(f"{Keys.CONTROL}a{Keys.NULL}admin")
    new_page.click("button[type=submit]")
    new_page.find("[data-testid=nav-dags-link]")


def test_the_dag_is_listed_and_can_be_switched_on(page: Page, project: Project) -> None:
    page.open("/dags")
    page.find(f"a[href='/dags/{DAG_ID}']", DAG_ID)
    assert project.json("status")["dag"]["paused"]
    page.click("[data-testid=toggle-pause]")
    page.until(lambda _: not project.json("status")["dag"]["paused"], "the DAG to be on")
    page.picture("dags")


def test_a_run_that_the_button_triggers_succeeds(page: Page, project: Project) -> None:
    client = project.client()
    runs = f"/api/v2/dags/{DAG_ID}/dagRuns?run_type=manual&order_by=-id&limit=1"
    before = client.call(runs)["total_entries"]
    client.pause(DAG_ID, paused=False)
    page.open(f"/dags/{DAG_ID}")
    page.click("[data-testid=trigger-dag-button]")
    page.click("[role=dialog] button:not([disabled])", "Trigger")
    page.until(lambda _: client.call(runs)["total_entries"] > before, "the triggered run")
    assert client.end_of(DAG_ID, client.call(runs)["dag_runs"][0]["dag_run_id"]) == "success"
    page.open(f"/dags/{DAG_ID}")
    page.find("[data-testid^='grid-manual__'][data-testid$='generate_labels']")
    page.picture("dag")
    project.settle()
    assert project.json("verify-db", "--expect", "reconciled")["ok"]
    assert project.json("verify-db", "--expect", "populated")["ok"]


def test_the_log_of_a_task_shows_what_the_script_wrote(page: Page, project: Project) -> None:
    run_id = project.json("trigger")["run_id"]
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


def test_the_report_is_a_page_for_who_is_logged_in(page: Page, populated: Project) -> None:
    published = populated.folder / "stack" / "airflow" / "report.html"
    published.unlink(missing_ok=True)
    for cookie in ({}, {"Cookie": "_token=forged"}):
        with pytest.raises(HTTPError) as refused:
            urlopen(Request(f"{page.url}/pipectl-report/", headers=cookie))  # noqa: S310  http
        assert refused.value.code == 403
    page.open("/plugin/fraud-report")
    page.driver.switch_to.frame(page.find("iframe"))
    page.wait_for_text("There is no report yet")
    done = populated.run("report", "--publish")
    assert f"In Airflow: Report in the navigation, {page.url}/plugin/fraud-report\n" in done.stderr
    page.driver.switch_to.default_content()
    page.open("/")
    page.click("a[href*='fraud-report']", "Report")
    page.driver.switch_to.frame(page.find("iframe"))
    page.wait_for_text("Transactions and fraud")
    page.find(".js-plotly-plot svg")
    page.picture("report-page")
    page.driver.switch_to.default_content()
