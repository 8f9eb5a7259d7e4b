"""Writes the README's pictures of the storefront: `scripts/outside --pictures`."""

import io
from pathlib import Path

import pytest
from PIL import Image

DOCS = Path(__file__).resolve().parents[2] / "docs"
SIZE_MAX = 150 * 1000


@pytest.mark.parametrize("scheme", ["light", "dark"])
def picture_is_written(new_visit, own_shop, scheme):
    visit = new_visit(own_shop, viewport={"width": 1280, "height": 960}, color_scheme=scheme, reduced_motion="reduce").open()
    visit.add("Mug")
    visit.buy("Green tea")
    visit.expect_shipped()
    visit.add("Teapot")
    visit.page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    visit.page.mouse.move(0, 0)
    file = DOCS / f"storefront-{scheme}.png"
    shot = Image.open(io.BytesIO(visit.page.screenshot(full_page=True))).convert("RGB")
    # A palette is a third of the size and looks the same.
    shot.quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)
    assert file.stat().st_size < SIZE_MAX
