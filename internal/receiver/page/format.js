// Numbers for people. Values with a unit arrive from the receiver as text.

// number writes a count or a rate with three significant digits: 0.0123, 4.5, 678, 12.3k, 4.56M; a dash for null.
export function number(v) {
  if (v === null || v === undefined || Number.isNaN(v)) return "–";
  for (const [least, symbol] of [[1e9, "G"], [1e6, "M"], [1e4, "k"]]) {
    if (Math.abs(v) >= least) return String(Number((v / (symbol === "k" ? 1e3 : least)).toPrecision(3))) + symbol;
  }
  if (Math.abs(v) >= 100) return String(Math.round(v));
  return String(Number(v.toPrecision(3)));
}

// clock writes Unix seconds as a local time of day, with seconds where they matter.
export function clock(seconds, withSeconds) {
  const options = { hour: "2-digit", minute: "2-digit", hour12: false };
  if (withSeconds) options.second = "2-digit";
  return new Date(seconds * 1000).toLocaleTimeString([], options);
}
