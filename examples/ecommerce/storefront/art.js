// A picture for every product: tiles that its SKU decides, the same ones each time.

const COLUMNS = 6;
const ROWS = 4;
const SIDE = 40;
/** What a tile can hold, drawn in a square of 40; a quarter turn makes four of each. */
const SHAPES = [
  "M0 0h40a40 40 0 0 1-40 40z",
  "M0 0a40 40 0 0 1 40 40a40 40 0 0 1-40-40z",
  "M0 0h40a20 20 0 0 1-40 0z",
  "M20 6a14 14 0 1 1-.01 0z",
  "M0 0h40l-40 40z",
  "M0 0h20v40h-20z",
];
const HUES = [150, 45, 235, 20, 195, 85, 320, 265];

/** Draws the picture of a product into an element, without a meaning for those who cannot see it. */
export function drawArt(element, sku) {
  const draw = numbers(sku);
  element.style.setProperty("--hue", HUES[draw(HUES.length)]);
  const first = draw(SHAPES.length);
  const shapes = [SHAPES[first], SHAPES[(first + 1 + draw(SHAPES.length - 1)) % SHAPES.length]];
  const tile = (_, place) => {
    const shape = shapes[draw(3) === 0 ? 1 : 0];
    const at = `${(place % COLUMNS) * SIDE} ${Math.floor(place / COLUMNS) * SIDE}`;
    return `<path d="${shape}" class="tone-${draw(4)}" transform="translate(${at}) rotate(${90 * draw(4)} 20 20)"/>`;
  };
  const tiles = Array.from({ length: COLUMNS * ROWS }, tile).join("");
  element.innerHTML = `<svg viewBox="0 0 ${COLUMNS * SIDE} ${ROWS * SIDE}" aria-hidden="true">${tiles}</svg>`;
}

/** Numbers below a bound that look random and depend on the text alone. */
function numbers(text) {
  let state = 2166136261;
  for (const sign of text) {
    state = Math.imul(state ^ sign.codePointAt(0), 16777619);
  }
  return (bound) => {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    return (state >>> 16) % bound;
  };
}
