// The page: what is on the shelf, in the cart and on its way. All that is shown comes from the shop's API.
//
// The bargain: an order gets its identity here and its tab keeps it, with all that was asked for, until the shop has
// decided about it. So it can be sent any number of times, after a reload too, and happens once.

import { Problem, ask, explain, find, orElse, path, persist, uuid } from "./api.js";
import { drawArt } from "./art.js";
import { ended, follow } from "./progress.js";

/** Products in one look at the shelf. */
const PAGE = 24;
const NEWEST = 10;
/** The most pieces of a product in one order. */
const PIECES_MAX = 1000;
const MONEY = new Intl.NumberFormat("en-IE", { style: "currency", currency: "EUR" });
const KINDS = { order_placed: "Order placed", shipment_created: "Shipment created" };
const STATES = { pending: "Pending", confirmed: "Paid", shipped: "Shipped", rejected: "Not accepted" };
const SHARED = ["cart", "user"];
const UUID = /\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b/gi;

// What is kept may have another shape: then these are false or fail.
const isText = (value) => typeof value === "string";
const isId = (value) => value.match(UUID)[0] === value;
const isQuantity = (value) => value > 0 && Number.isInteger(value);
const isPerson = ({ id, name, email }) => isId(id) && isText(name) && isText(email);
const isLine = ({ sku, quantity }) => isText(sku) && isQuantity(quantity);
const isAttempt = ({ person, order, cents }) =>
  isPerson(person) && isId(order.id) && order.lines.every(isLine) && Number.isInteger(cents);

/** By SKU: the catalog's record, and `available` as far as the inventory has told. */
const products = new Map();
/** What the page shows of each product, by SKU. */
const cards = new Map();
const lines = new Map();
/** Pieces by SKU. */
const cart = new Map(Object.entries(recall("cart", (value) => Object.values(value).every(isQuantity)) ?? {}));
let user = recall("user", isPerson);
/** The order the shop has not decided about, who orders, and the total that the button showed. */
let attempt = recall("attempt", isAttempt);
const watched = recall("watched", isId);
let placing = false;
let following = new AbortController();

const part = (id) => document.getElementById(id);
const show = (id, shown) => (part(id).hidden = !shown);
const write = (id, text) => (part(id).textContent = text);
const price = (cents) => MONEY.format(cents / 100);
const nameOf = (sku) => products.get(sku)?.name ?? sku;
const short = (id) => id.slice(0, 8);
const centsEach = (sku) => products.get(sku)?.price_cents ?? 0;
const centsOf = (lines) => lines.reduce((sum, { sku, quantity }) => sum + quantity * centsEach(sku), 0);
const linesInCart = () => Array.from(cart, ([sku, quantity]) => ({ sku, quantity }));
const pieces = (order) => order.lines.map((line) => `${line.quantity} × ${nameOf(line.sku)}`).join(", ");

/** What a tab keeps is its own, but a new tab begins with the cart and the user of the last one. */
function recall(key, fits) {
  try {
    const value = JSON.parse(sessionStorage.getItem(`shop.${key}`) ?? localStorage.getItem(`shop.${key}`));
    return fits(value) ? value : null;
  } catch {
    return null;
  }
}

function keep(key, value) {
  try {
    sessionStorage.setItem(`shop.${key}`, JSON.stringify(value));
    if (SHARED.includes(key)) localStorage.setItem(`shop.${key}`, JSON.stringify(value));
  } catch {
    // In a browser that keeps nothing, the shop remembers nothing.
  }
}

/** A copy of a template, and its slots by name. */
function copy(template, texts = {}) {
  const root = part(template).content.firstElementChild.cloneNode(true);
  const slots = {};
  for (const element of root.querySelectorAll("[slot]")) slots[element.slot] = element;
  fill(slots, texts);
  return { root, slots };
}

function fill(slots, texts) {
  for (const [slot, text] of Object.entries(texts)) slots[slot].textContent = text;
}

/** Shows what happened and what to do; nothing without words. */
function notice(id, [happened, ...advice] = []) {
  const strong = document.createElement("strong");
  strong.textContent = happened;
  part(id).replaceChildren(strong, ` ${advice.join(" ")}`);
  show(id, happened !== undefined);
}

function waiting(problem, pauseMs) {
  return [...explain(problem, nameOf), `Trying again in ${Math.ceil(pauseMs / 1000)} s.`];
}

// ---- The shelf

async function browse(after) {
  const more = part("products-more");
  more.hidden = true;
  more.onclick = () => browse(after);
  const where = `/api/products?limit=${PAGE}` + (after === undefined ? "" : path`&after=${after}`);
  const look = () => persist(() => ask("GET", where), (...wait) => notice("products-notice", waiting(...wait)));
  await orElse(
    async () => {
      const page = await look();
      notice("products-notice");
      page.forEach(learn);
      show("products-empty", products.size === 0);
      more.hidden = page.length < PAGE;
      more.textContent = "Show more products";
      more.onclick = () => browse(page.at(-1).sku);
      await count(page);
    },
    (problem) => {
      notice("products-notice", explain(problem, nameOf));
      more.hidden = false;
      more.textContent = "Try again";
    },
  );
}

function learn(product) {
  const { sku } = product;
  products.set(sku, { ...products.get(sku), ...product });
  if (!cards.has(sku)) {
    const card = copy("product-card");
    drawArt(card.slots.art, sku);
    card.slots.add.onclick = () => put(sku, 1);
    cards.set(sku, card);
    part("product-list").append(card.root);
  }
  showProduct(sku);
}

/** Asks how many pieces there are of some products. Without an answer one stays as it was. */
async function count(some) {
  const known = some.filter(({ sku }) => products.has(sku));
  const one = async ({ sku }) => {
    const stock = await find(path`/api/stock/${sku}`);
    products.get(sku).available = stock?.available ?? 0;
    showProduct(sku);
  };
  await Promise.all(known.map((product) => orElse(() => one(product), () => {})));
  showCart();
}

function showProduct(sku) {
  const { slots } = cards.get(sku);
  const { name, description, price_cents: cents, available } = products.get(sku);
  const inCart = cart.get(sku) ?? 0;
  const few = available < 6;
  const add = inCart > 0 ? `Add another (${inCart})` : "Add to cart";
  const stock = available === 0 ? "Sold out" : few ? `Only ${available} left` : `${available ?? "…"} in stock`;
  fill(slots, { name, description, price: price(cents), stock, add });
  slots.stock.dataset.level = available === 0 ? "none" : few ? "low" : "good";
  slots.add.disabled = inCart >= most(sku);
  slots.add.ariaLabel = `${add}: ${name}`;
}

function most(sku) {
  return Math.min(products.get(sku)?.available ?? PIECES_MAX, PIECES_MAX);
}

// ---- The cart

function put(sku, more) {
  const quantity = Math.max(0, (cart.get(sku) ?? 0) + more);
  if (placing || (more > 0 && quantity > most(sku))) return;
  setQuantity(sku, quantity);
  notice("checkout-notice");
  showCart();
  write("said", `${nameOf(sku)}: ${quantity} in the cart`);
}

function setQuantity(sku, quantity) {
  if (quantity > 0) cart.set(sku, quantity);
  else cart.delete(sku);
  keep("cart", Object.fromEntries(cart));
  if (cards.has(sku)) showProduct(sku);
}

/** Learns what is in the cart but not on the shelf, and drops what the catalog does not have. */
async function checkCart() {
  for (const sku of [...cart.keys()].filter((each) => !products.has(each))) {
    await refresh({ sku });
    if (!products.has(sku)) setQuantity(sku, 0);
    await count([{ sku }]);
  }
}

async function refresh({ sku }) {
  const product = await find(path`/api/products/${sku}`);
  if (product) learn(product);
}

function showCart() {
  let total = 0;
  for (const [sku, quantity] of cart) {
    total += quantity;
    showLine(sku, quantity);
  }
  for (const [sku, { root }] of lines) {
    if (cart.has(sku)) continue;
    if (root.contains(document.activeElement)) part("cart-title").focus();
    root.remove();
    lines.delete(sku);
  }
  write("cart-count", total);
  show("cart-empty", total === 0);
  show("checkout", total > 0);
  const sum = price(centsOf(linesInCart()));
  write("cart-total", sum);
  write("order", placing ? "Ordering…" : attempt ? "Try again" : `Order and pay ${sum}`);
}

function showLine(sku, quantity) {
  if (!lines.has(sku)) {
    const line = copy("cart-line");
    line.slots.less.onclick = () => put(sku, -1);
    line.slots.more.onclick = () => put(sku, 1);
    part("cart-lines").append(line.root);
    lines.set(sku, line);
  }
  const { slots } = lines.get(sku);
  const name = nameOf(sku);
  const each = centsEach(sku);
  fill(slots, { name, each: `${price(each)} each`, quantity, sum: price(each * quantity) });
  slots.more.disabled = quantity >= most(sku);
  slots.amount.ariaLabel = `Pieces of ${name}`;
  slots.less.ariaLabel = `One ${name} less`;
  slots.more.ariaLabel = `One ${name} more`;
}

function setUser(value) {
  user = value;
  keep("user", user);
  showAccount([], []);
  show("person-known", user !== null);
  show("person-new", user === null);
  part("person-new").disabled = user !== null;
  write("person-name", user?.name);
  write("person-email", user?.email);
}

// ---- Ordering

function submit(event) {
  event.preventDefault();
  if (placing) return;
  // Its fields are disabled, and would be missing below.
  if (attempt) return void place(attempt);
  const form = new FormData(part("checkout"));
  const person = user ?? { id: uuid(), name: form.get("name").trim(), email: form.get("email").trim() };
  const lines = linesInCart();
  const order = { id: uuid(), user_id: person.id, lines, payment_token: form.get("token") };
  place({ person, order, cents: centsOf(lines) });
}

async function place(made) {
  following.abort();
  setAttempt(made);
  lock(true);
  showProgress({ id: made.order.id, sending: true });
  part("progress-title").focus();
  const tell = (...wait) => write("progress-status", waiting(...wait).join(" "));
  await orElse(async () => accepted(await persist(() => send(made), tell)), notPlaced);
}

/** Sends an order if it costs what was shown. The shop is not told what that was: a change after this look is paid. */
async function send({ person, order, cents }) {
  await Promise.all(order.lines.map(refresh));
  const now = centsOf(order.lines);
  if (now !== cents) {
    // Sent before, it may stand at the price of then.
    const standing = await find(path`/api/orders/${order.id}`);
    if (standing) return standing;
    throw new Problem(409, { case: "repriced", detail: `The total is now ${price(now)}, and was ${price(cents)}.` });
  }
  if (user?.id !== person.id) setUser(await ask("POST", "/api/users", person));
  return ask("POST", "/api/orders", order);
}

function setAttempt(made) {
  attempt = made;
  keep("attempt", made);
}

/** While an order may stand it cannot be changed: that would be another one with the same identity. */
function lock(isPlacing) {
  const open = attempt !== null;
  placing = isPlacing;
  part("cart-fields").disabled = open;
  part("order").disabled = isPlacing;
  show("give-up", open && !isPlacing);
  notice("checkout-notice");
  showCart();
}

/** The shop has the order: the rest is its work, and the page looks on. */
async function accepted(order) {
  setAttempt(null);
  for (const { sku, quantity } of order.lines) setQuantity(sku, (cart.get(sku) ?? 0) - quantity);
  lock(false);
  part("progress-title").focus();
  await watch(order.id);
}

async function notPlaced(problem) {
  if (problem.final) setAttempt(null);
  lock(false);
  show("progress", false);
  const once = problem.final ? "" : "However often you try, it happens once.";
  notice("checkout-notice", [...explain(problem, nameOf), once]);
  part("checkout-notice").focus();
  await count([...products.values()].filter(({ sku }) => cart.has(sku)));
  await account();
}

/** Gives the cart back, unless the shop has the order after all. */
function giveUp() {
  orElse(
    async () => {
      const order = await find(path`/api/orders/${attempt.order.id}`);
      if (order !== null) return accepted(order);
      setAttempt(null);
      lock(false);
      part("cart-title").focus();
    },
    (problem) => notice("checkout-notice", explain(problem, nameOf)),
  );
}

// ---- The order's progress

async function watch(id) {
  following.abort();
  following = new AbortController();
  keep("watched", id);
  let before;
  for await (const known of follow(id, following.signal)) {
    showProgress({ id, ...known });
    const news = `${known.order?.status} ${known.messages.length}`;
    if (news !== before) await account();
    before = news;
    if (ended(known)) await count(known.order.lines);
    if (ended(known) || known.trouble?.final) keep("watched", null);
  }
}

function showProgress({ id, sending, order, charge, shipment, messages = [], trouble, tired }) {
  const paid = order?.status === "confirmed";
  const refused = order?.status === "rejected";
  const told = !refused && ended({ order, shipment, messages });
  const kinds = Object.keys(KINDS).filter((kind) => messages.some((message) => message.kind === kind));
  write("progress-order", `${order ? `${pieces(order)} · ` : ""}Order ${short(id)}`);
  step("received", sending ? "now" : "done", sending ? "" : "The shop has your order.");
  step("paid", refused ? "failed" : paid ? "done" : sending ? "" : "now", paid ? price(order.total_cents) : "");
  step("shipped", shipment ? "done" : paid ? "now" : "", shipment ? `Shipment ${short(shipment.id)}` : "");
  step("told", told ? "done" : shipment ? "now" : "", kinds.map((kind) => KINDS[kind]).join(", "));
  const words = () => {
    if (sending) return "Sending your order and waiting for the bank…";
    if (trouble) return `${explain(trouble, nameOf).join(" ")} ${trouble.final ? "" : "Your order is safe, and this page keeps looking."}`;
    if (refused) {
      const declined = charge?.status === "declined";
      const why = declined ? "The card was declined" : charge ? "The bank gave no answer" : "There was not enough in stock";
      return `${why} and nothing was charged. You can order again with ${charge ? "another card" : "fewer pieces"}.`;
    }
    if (told) return "All done: your order is shipped, and you have been told.";
    if (tired) return "This takes longer than usual. The shop goes on with it by itself; look again later.";
    if (shipment) return "Shipped. You are about to be told.";
    if (paid) return "Paid. The shipment is being made.";
    return order ? "The bank's answer is missing. The shop asks again by itself, and you pay once." : "Looking for your order…";
  };
  // Why: the same words written again would be read out again.
  if (part("progress-status").textContent !== words()) write("progress-status", words());
  show("progress", true);
  show("progress-again", tired);
  part("progress-again").onclick = () => watch(id);
}

function step(name, state, text) {
  const item = part(`step-${name}`);
  item.dataset.state = state;
  item.lastElementChild.textContent = text;
  item.ariaCurrent = state === "now" ? "step" : null;
}

/** Without an answer they stay as they were: the progress says what is wrong. */
async function account() {
  if (user === null) return;
  const of = (what) => ask("GET", path`/api/users/${user.id}/` + what);
  await orElse(async () => showAccount(...(await Promise.all([of("orders"), of("notifications")]))), () => {});
}

function showAccount(orders, messages) {
  const shipped = new Set(messages.filter(({ kind }) => kind === "shipment_created").map((message) => message.order_id));
  show("orders-empty", orders.length === 0);
  show("messages-empty", messages.length === 0);
  part("order-list").replaceChildren(
    ...orders.slice(0, NEWEST).map((order) => {
      const state = shipped.has(order.id) ? "shipped" : order.status;
      const texts = { lines: pieces(order), total: price(order.total_cents), state: STATES[state], id: short(order.id) };
      const { root, slots } = copy("order-row", texts);
      slots.state.dataset.state = state;
      return root;
    }),
  );
  part("message-list").replaceChildren(
    ...messages
      .slice(0, NEWEST)
      .map(({ text, kind }) => copy("message-row", { text: text.replace(UUID, short), kind: KINDS[kind] }).root),
  );
}

part("checkout").onsubmit = submit;
part("give-up").onclick = giveUp;
part("person-other").onclick = () => {
  setUser(null);
  part("name").focus();
};

setUser(user);
showCart();
await browse();
await orElse(async () => {
  await checkCart();
  // The shop may have begun anew since it met the user.
  if (user !== null && (await find(path`/api/users/${user.id}`)) === null) setUser(null);
}, () => {});
await account();
if (attempt) await place(attempt);
else if (watched) await watch(watched);
