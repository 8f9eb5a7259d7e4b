"""The storefront in a real browser, under a strict Content-Security-Policy: what people see and can do.

Every visit ends with the check that no request left the shop and nothing was complained about on the console.
"""

import re
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect as Expect

import shops

SCHEMES = pytest.mark.parametrize("scheme", ["light", "dark"])
CONTRASTS = Path(__file__).with_name("contrasts.js").read_text()
CONTRAST_MIN = 4.5
WEIGHT_MAX = 40 * 1024
# More steps than there are on the page.
TABS_MAX = 60


def products_are_shown_with_price_and_stock(visit):
    for _, name, cents, description, _ in shops.SHELF:
        card = visit.card(name)
        Expect(card.locator(".price")).to_have_text(f"€{cents / 100:.2f}")
        Expect(card).to_contain_text(description)
    Expect(visit.card("Lime honey").locator(".stock")).to_have_text("Sold out")
    Expect(visit.card("Lime honey").get_by_role("button")).to_be_disabled()
    Expect(visit.card("Mug").locator(".stock")).to_have_text(re.compile(r"\d+ in stock"))


def cart_adds_up_and_takes_back(visit):
    visit.add("Mug")
    visit.add("Mug")
    visit.add("Green tea")
    Expect(visit.page.locator("#cart-total")).to_have_text("€33.90")
    Expect(visit.page.locator("#cart-count")).to_have_text("3")
    visit.page.get_by_role("button", name="One Mug less").click()
    Expect(visit.page.locator("#cart-total")).to_have_text("€21.40")
    visit.page.get_by_role("button", name="One Mug less").click()
    visit.page.get_by_role("button", name="One Green tea less").click()
    Expect(visit.page.locator("#cart-empty")).to_be_visible()
    # Who works by keyboard is not thrown back to the top of the page.
    Expect(visit.page.locator("#cart-title")).to_be_focused()


def order_by_keyboard_alone_is_shipped_and_told(visit):
    _tab_to(visit.page, "Add to cart: Mug")
    visit.page.keyboard.press("Enter")
    _tab_to(visit.page, "Name")
    visit.page.keyboard.type("Grace Hopper")
    _tab_to(visit.page, "Email")
    visit.page.keyboard.type("grace@example.org")
    _tab_to(visit.page, "A good card")
    visit.page.keyboard.press("Space")
    _tab_to(visit.page, "Order and pay €12.50")
    visit.page.keyboard.press("Enter")
    Expect(visit.page.locator("#progress-title")).to_be_focused()
    visit.expect_shipped()
    Expect(visit.page.locator(".steps [data-state=done]")).to_have_count(4)
    Expect(visit.orders).to_have_count(1)
    Expect(visit.orders).to_contain_text("1 × Mug")
    Expect(visit.orders).to_contain_text("Shipped")
    Expect(visit.messages).to_have_count(2)
    Expect(visit.messages.filter(has_text="Order placed")).to_have_count(1)
    Expect(visit.messages.filter(has_text="Shipment created")).to_have_count(1)


def declined_card_is_said_and_another_card_is_taken(visit):
    visit.expect_failure(r"/api/orders 402")
    visit.buy("Mug", card="A declined card")
    Expect(visit.notice).to_contain_text("The card was declined.")
    Expect(visit.notice).to_be_focused()
    Expect(visit.page.locator("#progress")).to_be_hidden()
    Expect(visit.orders).to_contain_text("Not accepted")
    visit.pay_with("A good card")
    visit.order()
    visit.expect_shipped()
    Expect(visit.orders).to_have_count(2)
    Expect(visit.orders.first).to_contain_text("Shipped")


def piece_that_is_gone_meanwhile_is_said(visit, shop):
    shop.offer("gong", "Tea gong", 9900, "For the last cup", 2)
    visit.open()
    visit.expect_failure(r"/api/orders 409")
    visit.add("Tea gong")
    visit.add("Tea gong")
    Expect(visit.card("Tea gong").get_by_role("button")).to_be_disabled()
    shop.put("/api/stock/gong", {"available": 1})
    visit.introduce()
    visit.order()
    Expect(visit.notice).to_contain_text("not enough of this in stock: Tea gong")
    Expect(visit.card("Tea gong").locator(".stock")).to_have_text("Only 1 left")
    visit.page.get_by_role("button", name="One Tea gong less").click()
    visit.order()
    visit.expect_shipped()
    Expect(visit.card("Tea gong").locator(".stock")).to_have_text("Sold out")


def slow_bank_is_waited_for(visit):
    visit.buy("Green tea", card="A slow card")
    Expect(visit.status).to_contain_text("waiting for the bank")
    Expect(visit.page.locator("#order")).to_be_disabled()
    visit.expect_shipped()


def lost_answer_of_the_bank_is_one_charge(visit, shop):
    visit.buy("Green tea", card="An uncertain card")
    Expect(visit.status).to_contain_text("you pay once")
    visit.expect_shipped()
    [order] = shop.get(f"/api/users/{visit.user_id()}/orders")
    [payment] = shop.get(f"/api/orders/{order['id']}/payments")
    assert (payment["status"], payment["amount_cents"]) == ("charged", 890)


def what_the_shop_refuses_is_said_in_its_words(visit):
    visit.expect_failure(r"/api/users 422")
    visit.add("Mug")
    # The browser takes spaces for a name, and the shop does not.
    visit.introduce(name="   ")
    visit.order()
    Expect(visit.notice).to_contain_text("name must be")
    visit.introduce()
    visit.order()
    visit.expect_shipped()


def reload_keeps_person_cart_and_orders(visit):
    visit.buy("Mug")
    visit.expect_shipped()
    visit.add("Green tea")
    visit.page.reload()
    Expect(visit.page.locator("#person-name")).to_have_text("Ada Byron")
    Expect(visit.page.locator("#cart-total")).to_have_text("€8.90")
    Expect(visit.orders).to_contain_text("1 × Mug")
    Expect(visit.messages).to_have_count(2)
    visit.page.get_by_role("button", name="Someone else").click()
    Expect(visit.page.get_by_label("Name")).to_be_focused()
    Expect(visit.orders).to_have_count(0)


def reload_goes_on_looking_at_the_order(visit):
    visit.buy("Green tea", card="An uncertain card")
    Expect(visit.status).to_contain_text("you pay once")
    visit.page.reload()
    visit.expect_shipped()


def busy_shop_is_asked_again_when_it_said(visit):
    answers = iter([503])

    def answer(route):
        if next(answers, None) is None:
            route.fallback()
        else:
            route.fulfill(status=503, headers={"retry-after": "1"}, json={"title": "Service Unavailable", "status": 503})

    visit.expect_failure(r"/api/orders 503")
    visit.context.route("**/api/orders", answer)
    visit.buy("Green tea")
    Expect(visit.status).to_contain_text("The shop is busy. It has not taken this yet. Trying again in 1 s.")
    visit.expect_shipped()


def answer_that_is_lost_on_the_way_is_one_order(visit, shop):
    identities = []

    def lose_first(route):
        identities.append(route.request.post_data_json["id"])
        if len(identities) > 1:
            route.fallback()
            return
        route.fetch()
        route.abort()

    visit.expect_stopped_shop()
    visit.context.route("**/api/orders", lose_first)
    visit.buy("Green tea")
    Expect(visit.status).to_contain_text("cannot be reached")
    visit.expect_shipped()
    assert len(identities) == 2 and len(set(identities)) == 1
    assert len(shop.get(f"/api/users/{visit.user_id()}/orders")) == 1


def order_is_sent_again_after_a_reload(visit, shop):
    visit.expect_stopped_shop()
    visit.context.route("**/api/orders", lambda route: route.abort())
    visit.buy("Green tea")
    Expect(visit.status).to_contain_text("cannot be reached")
    visit.context.unroute("**/api/orders")
    visit.page.reload()
    visit.expect_shipped()
    Expect(visit.page.locator("#cart-empty")).to_be_visible()
    assert len(shop.get(f"/api/users/{visit.user_id()}/orders")) == 1


def order_that_never_arrived_can_be_changed(visit, shop):
    visit.expect_failure(r"/api/orders 504")
    visit.expect_failure(r"/api/orders/[0-9a-f-]+ 404")
    # The page asks ten times before it asks the reader: its clock goes faster here.
    visit.page.clock.install()
    visit.context.route("**/api/orders", lambda route: route.fulfill(status=504, json={"title": "Gateway Timeout", "status": 504}))
    visit.buy("Green tea")
    give_up = visit.page.get_by_role("button", name="Change this order")
    shops.eventually(lambda: visit.page.clock.run_for(5_000) or give_up.is_visible(), 30, "the page gives up")
    Expect(visit.notice).to_contain_text("However often you try, it happens once.")
    Expect(visit.page.locator("#cart-fields")).to_have_attribute("disabled", "")
    give_up.click()
    visit.page.clock.resume()
    visit.context.unroute("**/api/orders")
    visit.add("Mug")
    visit.order()
    visit.expect_shipped()
    [order] = shop.get(f"/api/users/{visit.user_id()}/orders")
    assert order["total_cents"] == 890 + 1250


def new_person_whose_request_never_arrived_tries_again(visit):
    visit.expect_failure(r"/api/users 504")
    visit.page.clock.install()
    visit.context.route("**/api/users", lambda route: route.fulfill(status=504, json={"title": "Gateway Timeout", "status": 504}))
    visit.buy("Green tea")
    again = visit.page.get_by_role("button", name="Try again")
    shops.eventually(lambda: visit.page.clock.run_for(5_000) or again.is_visible(), 30, "the page gives up")
    visit.context.unroute("**/api/users")
    visit.page.clock.resume()
    again.click()
    visit.expect_shipped()


def stopped_shop_is_said_and_made_good(own_shop, new_visit):
    visit = new_visit(own_shop).open()
    visit.expect_stopped_shop()
    # While an order is on its way.
    visit.buy("Mug", card="An uncertain card")
    Expect(visit.status).to_contain_text("you pay once")
    own_shop.stop()
    Expect(visit.status).to_contain_text("The shop cannot be reached.")
    own_shop.start()
    visit.expect_shipped()
    # Before an order.
    own_shop.stop()
    visit.add("Green tea")
    visit.order()
    Expect(visit.status).to_contain_text("Trying again in")
    own_shop.start()
    visit.expect_shipped()
    orders = own_shop.get(f"/api/users/{visit.user_id()}/orders")
    assert [order["status"] for order in orders] == ["confirmed", "confirmed"]


def shelf_comes_when_the_shop_does(own_shop, new_visit):
    visit = new_visit(own_shop)
    visit.expect_failure(r"/api/products net::ERR_FAILED")
    visit.context.route("**/api/products*", lambda route: route.abort())
    visit.page.goto(own_shop.origin)
    Expect(visit.page.locator("#products-notice")).to_contain_text("The shop cannot be reached.")
    visit.context.unroute("**/api/products*")
    Expect(visit.card("Mug")).to_be_visible()
    Expect(visit.page.locator("#products-notice")).to_be_hidden()


def more_products_than_one_page_are_reached(own_shop, new_visit):
    for number in range(30):
        own_shop.offer(f"z-cup-{number:02}", f"Cup {number}", 100, "", 1)
    visit = new_visit(own_shop).open()
    Expect(visit.page.locator("#product-list > li")).to_have_count(24)
    visit.page.get_by_role("button", name="Show more products").click()
    Expect(visit.page.locator("#product-list > li")).to_have_count(30 + len(shops.SHELF))
    visit.add("Cup 29")
    # What is in the cart is known after a reload, though its page of products is not loaded yet.
    visit.page.reload()
    Expect(visit.page.locator("#cart-lines")).to_contain_text("Cup 29")


def price_that_changed_is_shown_before_it_is_paid(visit, shop):
    shop.offer("kettle", "Kettle", 1250, "", 5)
    visit.open()
    visit.expect_failure(r"/api/orders/[0-9a-f-]+ 404")
    visit.add("Kettle")
    visit.introduce()
    shop.offer("kettle", "Kettle", 9999, "", 5)
    visit.page.get_by_role("button", name="Order and pay €12.50").click()
    Expect(visit.notice).to_contain_text("The total is now €99.99, and was €12.50. Nothing is ordered yet.")
    Expect(visit.notice).to_be_focused()
    Expect(visit.page.locator("#cart-lines")).to_contain_text("€99.99 each")
    Expect(visit.card("Kettle").locator(".price")).to_have_text("€99.99")
    assert visit.page.evaluate("JSON.parse(localStorage.getItem('shop.user'))") is None
    visit.page.get_by_role("button", name="Order and pay €99.99").click()
    visit.expect_shipped()
    [order] = shop.get(f"/api/users/{visit.user_id()}/orders")
    assert order["total_cents"] == 9999


def price_that_changed_is_not_paid_by_trying_again(visit, shop):
    shop.offer("ladle", "Ladle", 1250, "", 5)
    visit.open()
    visit.expect_stopped_shop()
    visit.expect_failure(r"/api/orders/[0-9a-f-]+ 404")
    visit.context.route("**/api/orders", lambda route: route.abort())
    visit.buy("Ladle")
    Expect(visit.status).to_contain_text("cannot be reached")
    shop.offer("ladle", "Ladle", 9999, "", 5)
    visit.context.unroute("**/api/orders")
    visit.page.reload()
    Expect(visit.notice).to_contain_text("The total is now €99.99, and was €12.50.")
    assert shop.get(f"/api/users/{visit.user_id()}/orders") == []
    visit.page.get_by_role("button", name="Order and pay €99.99").click()
    visit.expect_shipped()


def order_that_was_taken_before_the_price_changed_stands(visit, shop):
    def lose_answer(route):
        route.fetch()
        shop.offer("sieve", "Sieve", 9999, "", 5)
        route.abort()

    shop.offer("sieve", "Sieve", 1250, "", 5)
    visit.open()
    visit.expect_stopped_shop()
    visit.context.route("**/api/orders", lose_answer, times=1)
    visit.buy("Sieve")
    visit.expect_shipped()
    Expect(visit.page.locator("#step-paid")).to_contain_text("€12.50")
    [order] = shop.get(f"/api/users/{visit.user_id()}/orders")
    assert order["total_cents"] == 1250


def each_tab_orders_what_it_shows(new_visit, shop):
    first = new_visit(shop).open()
    first.expect_stopped_shop()
    first.expect_failure(r"/api/orders 402")
    first.page.route("**/api/orders", lambda route: route.abort())
    first.buy("Teapot", card="A declined card")
    Expect(first.status).to_contain_text("cannot be reached")
    second = new_visit(shop, beside=first).open()
    Expect(second.page.locator("#progress")).to_be_hidden()
    second.page.get_by_role("button", name="One Teapot less").click()
    second.add("Green tea")
    second.page.get_by_role("button", name="Order and pay €8.90").click()
    second.expect_shipped()
    Expect(second.page.locator("#progress-order")).to_contain_text("1 × Green tea ·")
    # The first one goes on, after a reload too, with what it showed.
    first.page.reload()
    Expect(first.status).to_contain_text("cannot be reached")
    Expect(first.page.locator("#cart-total")).to_have_text("€49.00")
    first.page.unroute("**/api/orders")
    Expect(first.notice).to_contain_text("The card was declined.")
    orders = shop.get(f"/api/users/{first.user_id()}/orders")
    assert sorted((order["total_cents"], order["status"]) for order in orders) == [(890, "confirmed"), (4900, "rejected")]


@pytest.mark.parametrize(
    "stored",
    ["{", "null", "7", '"text"', "[]", "{}", '{"mug":"two"}', '{"mug":-1}', '{"id":7,"name":{},"email":[]}',
     '{"person":{},"order":{}}', '{"person":{"id":"a","name":"b","email":"c"},"order":{"lines":{}},"cents":1}'],
)
def what_is_stored_in_another_shape_is_dropped(visit, stored):
    visit.page.evaluate(
        """(stored) => {
          for (const store of [sessionStorage, localStorage]) {
            for (const key of ["attempt", "cart", "user", "watched"]) store.setItem(`shop.${key}`, stored);
          }
        }""",
        stored,
    )
    visit.page.reload()
    visit.add("Mug")
    Expect(visit.page.locator("#cart-count")).to_have_text("1")
    Expect(visit.page.locator("#progress")).to_be_hidden()
    Expect(visit.page.get_by_role("button", name="Order and pay €12.50")).to_be_enabled()
    Expect(visit.page.get_by_label("Name")).to_be_enabled()


def texts_are_never_markup(own_shop, new_visit):
    markup = "<img src=x onerror=alert(1)><b>bold"
    own_shop.offer("odd", markup, 100, markup, 5)
    visit = new_visit(own_shop).open()
    visit.add(markup)
    visit.introduce(name=markup)
    visit.order()
    visit.expect_shipped()
    assert visit.page.locator("img[src=x], b").count() == 0


def order_has_an_identity_without_a_secure_context(visit):
    visit.context.add_init_script("delete Crypto.prototype.randomUUID")
    visit.page.reload()
    assert visit.page.evaluate("crypto.randomUUID === undefined")
    visit.buy("Green tea")
    visit.expect_shipped()


def page_is_light(new_visit, shop):
    visit = new_visit(shop)
    weights = {}

    def weigh(answer):
        if "/api/" not in answer.url:
            weights[answer.url] = len(answer.body())

    visit.page.on("response", weigh)
    visit.open()
    assert len(weights) >= 5 and sum(weights.values()) < WEIGHT_MAX, weights


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def nothing_is_wider_than_the_window(new_visit, own_shop, width):
    own_shop.offer("long", "Schlüsselanhänger" * 8, 99_999_999, "Un" + "believ" * 30 + "able", 5)
    visit = new_visit(own_shop, viewport={"width": width, "height": 800}).open()
    visit.page.locator("#product-list > li").filter(has_text="Schlüssel").get_by_role("button").click()
    visit.add("Mug")
    assert _overhang(visit.page) <= 0
    visit.introduce(name="Maximiliane" * 9, email="maximiliane" * 5 + "@example.org")
    visit.order()
    visit.expect_shipped()
    visit.add("Mug")
    assert _overhang(visit.page) <= 0


@SCHEMES
def everything_can_be_read_and_used(new_visit, shop, scheme):
    """In each state of the page: contrast, and axe's rules of accessibility, best practices included."""
    visit = new_visit(shop, color_scheme=scheme, reduced_motion="reduce").open()
    visit.expect_failure(r"/api/orders 402")
    _accessible(visit.page, "the shelf")
    visit.buy("Mug", card="A declined card")
    Expect(visit.notice).to_be_visible()
    _accessible(visit.page, "the notice")
    visit.pay_with("An uncertain card")
    visit.order()
    Expect(visit.status).to_contain_text("you pay once")
    _accessible(visit.page, "the way")
    visit.expect_shipped()
    visit.add("Mug")
    _accessible(visit.page, "the end")


def nothing_moves_for_those_who_asked_for_it(new_visit, shop):
    visit = new_visit(shop, reduced_motion="reduce").open()
    visit.buy("Green tea", card="An uncertain card")
    Expect(visit.page.locator(".steps [data-state=now]")).to_have_count(1)
    assert visit.page.evaluate("document.getAnimations().length") == 0
    visit.expect_shipped()


def changes_of_the_order_are_announced_once(visit):
    visit.page.evaluate(
        """() => {
          window.announced = [];
          const status = document.getElementById("progress-status");
          new MutationObserver(() => announced.push(status.textContent)).observe(status, { childList: true, characterData: true, subtree: true });
        }"""
    )
    visit.buy("Green tea", card="An uncertain card")
    visit.expect_shipped()
    announced = visit.page.evaluate("announced")
    assert len(announced) == len(set(announced)) and len(announced) >= 3, announced


def _tab_to(page, name):
    """Goes on with the Tab key until something has the focus whose name begins so, and sees that the focus shows."""
    seen = []
    for _ in range(TABS_MAX):
        page.keyboard.press("Tab")
        focused = page.evaluate(
            """() => {
              const element = document.activeElement;
              const label = element.ariaLabel ?? element.labels?.[0]?.textContent ?? element.textContent;
              return { name: label.trim(), outline: parseFloat(getComputedStyle(element).outlineWidth), id: element.tagName };
            }"""
        )
        seen.append(focused["name"][:40])
        assert focused["id"] == "BODY" or focused["outline"] >= 2, f"no focus to be seen: {focused}"
        if focused["name"].startswith(name):
            return
    raise AssertionError(f"{name} is not reached by Tab: {seen}")


def _overhang(page):
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def _accessible(page, state):
    faint = [text for text in page.evaluate(CONTRASTS) if text["ratio"] < CONTRAST_MIN]
    assert faint == [], f"{state}: too little contrast"
    found = Axe().run(page).response["violations"]
    told = [(rule["id"], rule["help"], [node["html"][:120] for node in rule["nodes"]]) for rule in found]
    assert told == [], f"{state}: axe"
