// Questions to the shop, and what is said to people when one is not answered as hoped.

/** How long an answer is waited for. */
const PATIENCE_MS = 15_000;
/** How often a question without an answer is asked again by itself: for half a minute. */
const REPEATS = 9;
/** The longest wait between two questions. */
const PAUSE_MAX_MS = 5_000;

/** A question that did not bring what was asked for. The status is 0 if no answer came at all. */
export class Problem extends Error {
  constructor(status, told, pauseMs = null) {
    super(told?.title);
    Object.assign(this, { status, pauseMs, told: told ?? {} });
  }

  /** Whether the shop has decided: then asking again would bring the same. */
  get final() {
    return this.status >= 400 && this.status < 500 && this.status !== 408;
  }
}

/** A path with its parts encoded. */
export function path(texts, ...parts) {
  return String.raw({ raw: texts }, ...parts.map(encodeURIComponent));
}

/** Asks the shop. Gives what it answers, or throws a `Problem`. */
export async function ask(method, where, body) {
  let answer;
  let text;
  try {
    answer = await fetch(where, {
      method,
      headers: body && { "content-type": "application/json" },
      body: body && JSON.stringify(body),
      cache: "no-store",
      signal: AbortSignal.timeout(PATIENCE_MS),
    });
    text = await answer.text();
  } catch {
    throw new Problem(0);
  }
  const value = parsed(text);
  if (answer.ok) return value;
  const seconds = Math.min(Number(answer.headers.get("retry-after")), 60);
  throw new Problem(answer.status, value, seconds > 0 ? seconds * 1000 : null);
}

/** Asks for what may not be there, or not be able to: then gives null. */
export function find(where) {
  return orElse(
    () => ask("GET", where),
    (problem) => {
      if (![400, 404, 422].includes(problem.status)) throw problem;
      return null;
    },
  );
}

/** Does something, and something else if there is a problem with the shop. */
export async function orElse(action, otherwise) {
  try {
    return await action();
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    return otherwise(problem);
  }
}

/** Does something until the shop has decided about it, but not for ever. `tell` hears of every wait. */
export function persist(action, tell, turn = 0) {
  return orElse(action, async (problem) => {
    if (problem.final || turn === REPEATS) throw problem;
    const pause = problem.pauseMs ?? pauseMs(turn + 2);
    tell(problem, pause);
    await wait(pause);
    return persist(action, tell, turn + 1);
  });
}

/** The wait before the next question: longer each time. */
export function pauseMs(turn) {
  return Math.min(250 * 1.5 ** turn, PAUSE_MAX_MS);
}

export function wait(ms) {
  return new Promise((done) => setTimeout(done, ms));
}

/** A new identity. Outside of secure contexts there is no `randomUUID`. */
export function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

/** What happened, and what to do. `nameOf` knows the names of products. */
export function explain({ status, told }, nameOf) {
  const named = Array.isArray(told.payload) ? told.payload.map(nameOf).join(", ") : "";
  switch (told.case ?? status) {
    case "declined":
      return ["The card was declined.", "Nothing was charged. Choose another card and order again."];
    case "out_of_stock":
      return [`There is not enough of this in stock: ${named}.`, "Nothing was charged. Order again with fewer pieces."];
    case "unknown_products":
      return [`The shop does not sell this any more: ${named}.`, "Nothing was charged. Take it out of the cart and order again."];
    case "repriced":
      return [told.detail, "Nothing is ordered yet. Look at the new prices and order again if they suit you."];
    case "invalid":
    case "conflict":
      return ["The shop does not take this as it is.", `Change it and try again: ${told.detail}.`];
    case 0:
      return ["The shop cannot be reached.", "It may be starting again, or you may be offline."];
    case 404:
      return ["The shop does not know this.", "Load the page again."];
    case 503:
      return ["The shop is busy.", "It has not taken this yet."];
    case 408:
    case 504:
      return ["The shop took too long to answer.", "It may have taken this all the same."];
    default:
      return ["The shop has a problem of its own.", `Load the page again. The shop's number for this is ${told.request_id ?? status}.`];
  }
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
