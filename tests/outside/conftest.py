"""The shop and the browser that the tests share."""

import os
import shutil
from pathlib import Path

import playwright.sync_api
import pytest

from shops import Shop
from storefront import Visit

ROOT = Path(__file__).resolve().parents[2]
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]


def pytest_addoption(parser):
    parser.addoption("--cleave", default=ROOT / "target/release/cleave", type=Path, help="the binary to be tested")
    parser.addoption("--config", default=ROOT / "examples/ecommerce/cleave.toml", type=Path, help="the shop's config")
    parser.addoption("--pictures", action="store_true", help="write the pictures of the README, and test nothing")


def pytest_collection_modifyitems(config, items):
    def picture(item):
        return item.path.name == "test_pictures.py"

    wanted = [item for item in items if picture(item) == config.getoption("--pictures")]
    config.hook.pytest_deselected(items=[item for item in items if item not in wanted])
    items[:] = wanted


@pytest.fixture(scope="session")
def config(pytestconfig):
    return pytestconfig.getoption("--config")


@pytest.fixture(scope="session")
def new_shop(pytestconfig, config, tmp_path_factory):
    """Starts shops, each on new data, which are ended with the session. They share the compiled components."""
    cache = tmp_path_factory.mktemp("cache")
    begun = []

    def start():
        shop = Shop(pytestconfig.getoption("--cleave"), config, tmp_path_factory.mktemp("shop"), cache)
        begun.append(shop)
        return shop.start().fill_shelf()

    yield start
    for shop in begun:
        shop.stop()


@pytest.fixture(scope="session")
def shop(new_shop):
    return new_shop()


@pytest.fixture
def own_shop(new_shop):
    """A shop for one test, which may stop it or use it up."""
    shop = new_shop()
    yield shop
    shop.stop()


@pytest.fixture(scope="session")
def browser():
    os.environ["PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD"] = "1"
    with playwright.sync_api.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=shutil.which("chromium") or "/usr/bin/chromium", args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture
def new_visit(browser):
    """Opens windows, or tabs beside others, and sees at the end that none asked elsewhere or complained.

    A test asks for it after its shop, so that the windows are closed before the shop stops: they would complain.
    """
    visits = []

    def visit(shop, beside=None, **options):
        context = beside.context if beside else browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        visits.append(Visit(context, shop.origin))
        return visits[-1]

    yield visit
    for each in visits:
        each.context.close()
    for each in visits:
        each.check()


@pytest.fixture
def visit(new_visit, shop):
    return new_visit(shop).open()
