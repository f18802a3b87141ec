"""A browser without a window, as tests of pages use it."""

import json
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

READY = 20  # seconds, on a machine that does other things too


class Browser:
    """Chromium, with what a test asks of a page."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, page: Path, width: int = 1280, dark: bool = False, media: str = "") -> None:
        """Open a page as a window of that width shows it, and wait until its charts are drawn."""
        from selenium.webdriver.support.ui import WebDriverWait

        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", media=media, features=[scheme])
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self._call("Emulation.setDeviceMetricsOverride", **size)
        self.driver.get(page.as_uri())
        WebDriverWait(self.driver, READY).until(lambda _: self.seconds_to_ready())

    def seconds_to_ready(self) -> float:
        """Return how long the page took until all charts were drawn."""
        return int(self.ask("document.documentElement.dataset.ready || 0")) / 1000

    def ask(self, expression: str) -> Any:
        """Return the value of an expression of JavaScript."""
        return self.driver.execute_script(f"return {expression}")

    def wait_for(self, expression: str, value: Any) -> None:
        """Wait until an expression has a value; fail with what it has if it never does."""
        from selenium.common import TimeoutException
        from selenium.webdriver.support.ui import WebDriverWait

        with suppress(TimeoutException):
            WebDriverWait(self.driver, READY).until(lambda _: self.ask(expression) == value)
        assert self.ask(expression) == value

    def click(self, selector: str) -> None:
        self.driver.execute_script("document.querySelector(arguments[0]).click()", selector)

    def complaints(self) -> list[str]:
        """Return the lines of the console since the last call, warnings too."""
        return [line["message"] for line in self.driver.get_log("browser")]

    def shorten_tables(self, rows: int) -> None:
        """Keep the first rows of each table, where the others are alike.

        axe-core looks at each cell, which takes more than a minute for thousands.
        """
        later = f"table tbody tr:nth-child(n + {rows + 1})"
        self.driver.execute_script(
            "document.querySelectorAll(arguments[0]).forEach((row) => row.remove())", later
        )

    def violations(self) -> list[str]:
        """Return what axe-core finds inaccessible."""
        import axe_core_python

        script = Path(axe_core_python.__file__).parent / "axe.min.js"
        self.driver.execute_script(script.read_text())
        run = "axe.run().then(arguments[arguments.length - 1])"
        found = self.driver.execute_async_script(run)["violations"]
        return [f"{each['id']}: {each['nodes'][0]['html'][:200]}" for each in found]

    def _call(self, command: str, **options: Any) -> None:
        self.driver.execute_cdp_cmd(command, json.loads(json.dumps(options)))


def start_browser() -> Iterator[Browser]:
    """Start Chromium, and end it; skip the test, with the reason, where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    pytest.importorskip("axe_core_python", reason="needs axe-core-python")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs chromium and chromedriver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(driver)
    running = webdriver.Chrome(options=options, service=service)
    running.set_script_timeout(60)
    yield Browser(running)
    running.quit()
