"""A visit to the storefront with a browser, and what people do there."""

import re
from urllib.parse import urlsplit

from playwright.sync_api import expect

POLICY = "default-src 'self'"
# A wait that a slow card and a second question to the bank fit into.
PATIENCE_MS = 30_000
expect.set_options(timeout=PATIENCE_MS)


class Visit:
    """One person's browser window. It keeps what the page should not do: ask elsewhere, or complain on the console."""

    def __init__(self, context, origin):
        self.origin = origin
        self.context = context
        self.foreign = []
        self.complaints = []
        self.expected = []
        self.page = context.new_page()
        self.page.on("request", self._requested)
        self.page.on("pageerror", lambda error: self.complaints.append(f"uncaught: {error}"))
        self.page.on("console", self._logged)
        # A shipment is asked for until there is one.
        self.expect_failure(r"/api/orders/[^/]+/shipment 404")
        context.route(origin + "/", self._with_policy)

    def _with_policy(self, route):
        answer = route.fetch()
        route.fulfill(response=answer, headers={**answer.headers, "content-security-policy": POLICY})

    def _requested(self, request):
        if not request.url.startswith(self.origin + "/"):
            self.foreign.append(request.url)

    def _logged(self, message):
        if message.type not in ("error", "warning"):
            return
        failure = re.search(r"^Failed to load resource: .*?(\d{3}|net::\w+)", message.text)
        text = f"{urlsplit(message.location['url']).path} {failure[1]}" if failure else message.text
        if not any(re.fullmatch(pattern, text) for pattern in self.expected):
            self.complaints.append(text)

    def expect_failure(self, pattern):
        """The browser reports each failed request to the console: a path and a status or `net::` error that may occur."""
        self.expected.append(pattern)

    def expect_stopped_shop(self):
        self.expect_failure(r"/.* net::ERR_(CONNECTION_REFUSED|CONNECTION_RESET|EMPTY_RESPONSE|FAILED)")

    def check(self):
        assert self.foreign == [], self.foreign
        assert self.complaints == [], self.complaints

    # What people see and do.

    def open(self):
        self.page.goto(self.origin + "/")
        expect(self.card("Mug").locator(".stock")).not_to_contain_text("…")
        return self

    def card(self, name):
        return self.page.locator("#product-list > li").filter(has=self.page.get_by_role("heading", name=name, exact=True))

    def add(self, name):
        self.card(name).get_by_role("button").click()

    def introduce(self, name="Ada Byron", email="ada@example.org"):
        self.page.get_by_label("Name").fill(name)
        self.page.get_by_label("Email").fill(email)

    def pay_with(self, card):
        self.page.get_by_role("radio", name=card).check()

    def order(self):
        self.page.get_by_role("button", name="Order and pay").click()

    def buy(self, product, card="A good card"):
        self.add(product)
        self.introduce()
        self.pay_with(card)
        self.order()

    @property
    def status(self):
        return self.page.locator("#progress-status")

    @property
    def notice(self):
        return self.page.locator("#checkout-notice")

    @property
    def orders(self):
        return self.page.locator("#order-list > li")

    @property
    def messages(self):
        return self.page.locator("#message-list > li")

    def expect_shipped(self):
        expect(self.status).to_contain_text("All done")

    def user_id(self):
        return self.page.evaluate("JSON.parse(localStorage.getItem('shop.user')).id")
