// A picture for every product: tiles that its SKU decides, the same ones each time.

const SVG = "http://www.w3.org/2000/svg";
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

/** The picture of a product, without a meaning for those who cannot see it. */
export function artwork(sku) {
  const draw = numbers(sku);
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${COLUMNS * SIDE} ${ROWS * SIDE}`);
  svg.setAttribute("preserveAspectRatio", "xMidYMid slice");
  svg.setAttribute("aria-hidden", "true");
  svg.style.setProperty("--hue", HUES[draw(HUES.length)]);
  // Why two shapes: a product keeps to a pattern that one knows again.
  const first = draw(SHAPES.length);
  const shapes = [SHAPES[first], SHAPES[(first + 1 + draw(SHAPES.length - 1)) % SHAPES.length]];
  for (let row = 0; row < ROWS; row += 1) {
    for (let column = 0; column < COLUMNS; column += 1) {
      const path = document.createElementNS(SVG, "path");
      path.setAttribute("d", shapes[draw(3) === 0 ? 1 : 0]);
      path.setAttribute("class", `tone-${draw(4)}`);
      const centre = SIDE / 2;
      path.setAttribute(
        "transform",
        `translate(${column * SIDE} ${row * SIDE}) rotate(${90 * draw(4)} ${centre} ${centre})`,
      );
      svg.append(path);
    }
  }
  return svg;
}

/** Numbers below a bound that look random and depend on the text alone. */
function numbers(text) {
  let state = 2166136261;
  for (const sign of text) {
    state = Math.imul(state ^ sign.codePointAt(0), 16777619);
  }
  return (bound) => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) % bound;
  };
}
