// The way of an order to its end, as the shop tells it when asked now and then.

import { ask, find, orElse, path, pauseMs, wait } from "./api.js";

/** How often it is asked without anything new before that is left to the reader: about a minute and a half. */
const LOOKS = 24;

/**
 * Gives what is known of an order, again after each look, until it is at its end, `signal` is given up or there was
 * nothing new for long: then the last has `tired`.
 */
export async function* follow(id, signal) {
  const known = { order: null, charge: null, shipment: null, messages: [] };
  let before = 0;
  for (let turn = 0; turn <= LOOKS; turn += 1) {
    const trouble = await orElse(() => look(known, id), (problem) => problem);
    if (signal.aborted) return;
    yield { ...known, trouble, tired: turn === LOOKS };
    if (ended(known) || trouble?.final) return;
    if (stage(known) !== before) turn = 0;
    before = stage(known);
    await wait(trouble?.pauseMs ?? pauseMs(turn));
    if (signal.aborted) return;
  }
}

/** Whether nothing more is to come. */
export function ended({ order, shipment, messages }) {
  const kinds = new Set(messages.map((message) => message.kind));
  return order?.status === "rejected" || (shipment && kinds.has("order_placed") && kinds.has("shipment_created"));
}

/** Asks for what is not known yet, and for no more than can be there. */
async function look(known, id) {
  if (known.order?.status !== "confirmed") known.order = await ask("GET", path`/api/orders/${id}`);
  if (known.order.status === "rejected") [known.charge] = await ask("GET", path`/api/orders/${id}/payments`);
  if (known.order.status !== "confirmed") return;
  known.shipment ??= await find(path`/api/orders/${id}/shipment`);
  const all = await ask("GET", path`/api/users/${known.order.user_id}/notifications`);
  known.messages = all.filter((message) => message.order_id === known.order.id);
}

function stage({ order, shipment, messages }) {
  return [undefined, "pending", "confirmed"].indexOf(order?.status) + (shipment ? 1 : 0) + messages.length;
}
