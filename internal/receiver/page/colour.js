// The colour ramp: even steps of lightness, from violet over red to yellow, computed in OKLCH. On a dark page the busiest bucket is the
// brightest, on a light page the darkest, so that an empty bucket always looks like the paper.

const steps = 256;
const ends = {
  dark: { from: [0.26, 0.09, 292], to: [0.93, 0.13, 456] },
  light: { from: [0.95, 0.07, 456], to: [0.27, 0.13, 292] },
};

// toRGB converts OKLCH to an sRGB colour string (Björn Ottosson's matrices).
function toRGB(lightness, chroma, hue) {
  const a = chroma * Math.cos(hue * Math.PI / 180);
  const b = chroma * Math.sin(hue * Math.PI / 180);
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  const channels = [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ];
  const encoded = channels.map((c) => {
    const v = Math.min(1, Math.max(0, c));
    return Math.round(255 * (v <= 0.0031308 ? 12.92 * v : 1.055 * v ** (1 / 2.4) - 0.055));
  });
  return `rgb(${encoded.join(" ")})`;
}

// ramp returns the colours of a scheme ("dark" or "light"), rarest first. The middle is more colourful than the ends.
export function ramp(scheme) {
  const { from, to } = ends[scheme];
  return Array.from({ length: steps }, (_, i) => {
    const t = i / (steps - 1);
    const mix = (k) => from[k] + (to[k] - from[k]) * t;
    return toRGB(mix(0), mix(1) + 0.09 * Math.sin(Math.PI * t), mix(2));
  });
}

// Shades maps rates to colours, over the rates that a picture holds.
export class Shades {
  constructor(rates, logarithmic, scheme) {
    this.colours = ramp(scheme);
    this.logarithmic = logarithmic;
    this.most = rates.reduce((a, b) => Math.max(a, b), 0);
    const least = rates.reduce((a, b) => Math.min(a, b), Infinity);
    // Four decades are enough to tell apart; what is rarer gets the first colour.
    this.least = logarithmic ? Math.max(Math.min(least, this.most / 2), this.most / 1e4) : 0;
  }

  // place is where a rate lies between the first (0) and the last colour (1).
  place(rate) {
    const t = this.logarithmic ? Math.log(rate / this.least) / Math.log(this.most / this.least) : rate / this.most;
    return Math.min(1, Math.max(0, t));
  }

  // rateAt is the rate at a place.
  rateAt(place) {
    return this.logarithmic ? this.least * (this.most / this.least) ** place : this.most * place;
  }

  colour(rate) {
    return this.colours[Math.round(this.place(rate) * (this.colours.length - 1))];
  }
}
