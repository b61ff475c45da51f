"""The web page in headless Chromium, at the width of a screen and of a phone."""

import os
import shutil
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from tagi.serving.access import Keys as ApiKeys
from tests.serving.fakes import FakeEngine, running

pytestmark = pytest.mark.slow

BROWSER, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
WIDTHS = {"screen": 1200, "phone": 400}


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    if not (BROWSER and DRIVER):
        pytest.fail("expected chromium and chromedriver (Debian: chromium, chromium-driver), got none")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.add_experimental_option("prefs", {"download.default_directory": str(tmp_path / "downloads")})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def wait(browser: webdriver.Chrome, holds: Any) -> Any:
    return WebDriverWait(browser, 60, 0.05).until(lambda _: holds())


def at(browser: webdriver.Chrome, id: str) -> Any:
    return browser.find_element(By.ID, id)


def narrow(browser: webdriver.Chrome, width: int) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def shoot(browser: webdriver.Chrome, name: str) -> None:
    """Keep a picture of the whole page where `TAGI_SCREENSHOTS` names a folder."""
    folder = os.environ.get("TAGI_SCREENSHOTS")
    if folder:
        import base64

        taken = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
        (Path(folder) / f"{name}.png").write_bytes(base64.b64decode(taken["data"]))


def no_faults(browser: webdriver.Chrome, *expected: str) -> None:
    """Nothing is on the browser's console, and nothing of the page came from elsewhere."""
    lines = [entry["message"] for entry in browser.get_log("browser")]
    assert [line for line in lines if not any(text in line for text in expected)] == []
    script = "return performance.getEntriesByType('resource').map(entry => entry.name)"
    own = browser.current_url
    assert [name for name in browser.execute_script(script) if not name.startswith((own, "data:", "blob:"))] == []


def fits(browser: webdriver.Chrome) -> bool:
    """Nothing is wider than the window."""
    return bool(browser.execute_script("return document.documentElement.scrollWidth <= innerWidth"))


@pytest.mark.parametrize("shape", WIDTHS)
def test_an_adapter_from_its_instruction_to_its_deletion(browser: webdriver.Chrome, shape: str, tmp_path: Path) -> None:
    with running(tmp_path / "store", engine=FakeEngine(seconds_per_token=0.2)) as server:
        narrow(browser, WIDTHS[shape])
        browser.get(f"{server.address}/")
        wait(browser, lambda: at(browser, "none").is_displayed())
        shoot(browser, f"{shape}-empty")
        at(browser, "instruction").send_keys("Write the sentence in the past tense.")
        at(browser, "more").click()
        for side, text in zip(
            browser.find_elements(By.CSS_SELECTOR, ".pair input"), ("He sings.", "He sang."), strict=True
        ):
            side.send_keys(text)
        at(browser, "create").click()
        wait(browser, lambda: "Generated in" in at(browser, "status").text)
        entry = server.service.store.entries("local")[0]
        assert (entry.instruction, len(entry.examples)) == ("Write the sentence in the past tense.", 1)
        assert entry.examples[0].output == "He sang."
        assert at(browser, "model").text == entry.id
        assert browser.switch_to.active_element == at(browser, "chosen-title")
        assert len(browser.find_elements(By.CSS_SELECTOR, "#chart rect")) == 2  # layers, of two modules each
        title = browser.execute_script("return document.querySelector('#chart svg').getAttribute('aria-label')")
        assert title == "Norm of the update in 2 layers, at most 1.51 in layers.1"
        answers = ask(browser, "She walks.")
        assert answers["stock"].startswith("base chat")
        assert answers["adapted"].startswith(f"{entry.id[:6]} chat")
        assert answers["alone"].startswith(f"{entry.id[:6]} alone")
        asked = {request.adapter: request for request in server.engine.requests}[None]
        assert [message.role for message in asked.prompt] == ["system", "user"]
        assert asked.prompt[0].content.startswith(entry.instruction)
        assert "He sang." in asked.prompt[0].content
        assert fits(browser)
        shoot(browser, shape)
        export(browser, entry.id, tmp_path / "downloads")
        at(browser, "delete").click()
        browser.switch_to.alert.accept()
        wait(browser, lambda: at(browser, "status").text == "Deleted.")
        assert server.service.store.count() == 0
        assert at(browser, "none").is_displayed()
        assert not at(browser, "chosen").is_displayed()
        no_faults(browser)


def ask(browser: webdriver.Chrome, text: str) -> dict[str, str]:
    """Compare the three answers to an input."""
    at(browser, "input").send_keys(text)
    at(browser, "compare").click()
    assert at(browser, "stop").is_displayed()
    wait(browser, lambda: 0 < at(browser, "adapted").text.count(" ") < 6)  # it comes in parts
    wait(browser, lambda: at(browser, "compare").is_enabled())
    return {name: at(browser, name).text for name in ("stock", "adapted", "alone")}


def export(browser: webdriver.Chrome, id: str, folder: Path) -> None:
    """Download an adapter and look into the file."""
    at(browser, "export").click()
    file = folder / f"{id}.zip"
    until = time.monotonic() + 30
    while not file.is_file():
        assert time.monotonic() < until, at(browser, "fault").text
        time.sleep(0.1)
    assert f"{id}/adapter_model.safetensors" in zipfile.ZipFile(file).namelist()


def test_everything_is_reached_by_keyboard_and_has_a_name(browser: webdriver.Chrome, tmp_path: Path) -> None:
    with running(tmp_path / "store") as server:
        browser.get(f"{server.address}/")
        wait(browser, lambda: at(browser, "none").is_displayed())
        at(browser, "instruction").send_keys("Do it.", Keys.TAB, Keys.ENTER)  # adds an example and goes there
        assert browser.switch_to.active_element.accessible_name == "Input of example 1"
        at(browser, "name").send_keys("mine", Keys.TAB, Keys.ENTER)
        wait(browser, lambda: at(browser, "chosen").is_displayed())
        chain = ActionChains(browser)
        chain.send_keys(Keys.TAB).perform()
        assert browser.switch_to.active_element.accessible_name == "Export for PEFT"
        chain.send_keys(Keys.TAB).send_keys(Keys.TAB).send_keys("hello").send_keys(Keys.TAB).send_keys(Keys.TAB)
        chain.send_keys(Keys.ENTER).perform()
        wait(browser, lambda: at(browser, "alone").text.endswith("."))
        fields = browser.find_elements(By.CSS_SELECTOR, "input, textarea, button, svg, table, section")
        assert [field.tag_name for field in fields if field.is_displayed() and not named(browser, field)] == []
        assert browser.find_element(By.TAG_NAME, "html").get_attribute("lang") == "en"
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [DARK]})
        assert browser.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(16, 20, 26)"
        shoot(browser, "dark")
        no_faults(browser)


DARK = {"name": "prefers-color-scheme", "value": "dark"}


def named(browser: webdriver.Chrome, field: Any) -> bool:
    """Whether an element has a name for those who do not see it; tables have headed columns."""
    return bool(field.accessible_name) or (field.tag_name == "table" and bool(field.find_elements(By.TAG_NAME, "th")))


def test_a_key_is_asked_for_where_it_is_needed(browser: webdriver.Chrome, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("one:first-key\ntwo:second-key\n")
    with running(tmp_path / "store", keys=ApiKeys.from_file(tmp_path / "keys")) as server:
        browser.get(f"{server.address}/")
        wait(browser, lambda: at(browser, "access").is_displayed())
        assert browser.switch_to.active_element == at(browser, "key")
        at(browser, "key").send_keys("wrong", Keys.ENTER)
        wait(browser, lambda: "expected a known API key" in at(browser, "status").text)
        at(browser, "key").clear()
        at(browser, "key").send_keys("first-key", Keys.ENTER)
        wait(browser, lambda: not at(browser, "access").is_displayed())
        at(browser, "instruction").send_keys("<img src=x onerror=alert(1)> & <b>bold</b>")
        at(browser, "create").click()
        wait(browser, lambda: at(browser, "chosen").is_displayed())
        assert at(browser, "told").text == "<img src=x onerror=alert(1)> & <b>bold</b>"  # text, not markup
        assert server.service.store.count("key:one") == 1
        export(browser, server.service.store.entries("key:one")[0].id, tmp_path / "downloads")
        no_faults(browser, "401")


def test_a_fault_is_shown_where_it_happens(browser: webdriver.Chrome, tmp_path: Path) -> None:
    with running(tmp_path / "store") as server:
        browser.get(f"{server.address}/")
        at(browser, "instruction").send_keys(" ")
        at(browser, "instruction").send_keys(Keys.END, "x " * 50)
        at(browser, "create").click()
        wait(browser, lambda: at(browser, "status").text == "expected at most 40 words")
        at(browser, "instruction").clear()
        at(browser, "instruction").send_keys("Do it.")
        at(browser, "create").click()
        wait(browser, lambda: at(browser, "chosen").is_displayed())
        at(browser, "input").send_keys("fail late")
        at(browser, "compare").click()
        wait(browser, lambda: at(browser, "compare").is_enabled())
        assert {at(browser, name).text for name in ("stock", "adapted", "alone")} == {"the engine cannot answer now"}
        no_faults(browser, "400")
