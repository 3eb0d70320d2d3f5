// A minute of one figure as a line.

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 240;
const HEIGHT = 48;
const SAMPLES = 120; // a minute at two per second

export class Sparkline {
  constructor(svg) {
    this.values = [];
    this.area = svg.appendChild(document.createElementNS(SVG, "path"));
    this.line = svg.appendChild(document.createElementNS(SVG, "path"));
    this.area.setAttribute("class", "area");
    this.line.setAttribute("class", "line");
  }

  // `null` leaves a hole.
  push(value) {
    this.values.push(value);
    if (this.values.length > SAMPLES) this.values.shift();
    const known = this.values.filter((v) => v !== null);
    if (known.length < 2) return;
    const top = Math.max(...known) * 1.15 || 1;
    const step = WIDTH / (SAMPLES - 1);
    const first = SAMPLES - this.values.length;
    let line = "";
    let area = "";
    let open = null;
    const close = (x) => { if (open !== null) area += `L${x} ${HEIGHT}Z`; open = null; };
    let last = 0;
    this.values.forEach((value, i) => {
      const x = ((first + i) * step).toFixed(1);
      if (value === null) { close(last); return; }
      const y = (HEIGHT - (value / top) * HEIGHT).toFixed(1);
      if (open === null) { line += `M${x} ${y}`; area += `M${x} ${HEIGHT}L${x} ${y}`; open = x; }
      else { line += `L${x} ${y}`; area += `L${x} ${y}`; }
      last = x;
    });
    close(last);
    this.line.setAttribute("d", line);
    this.area.setAttribute("d", area);
  }
}

export function median(values) {
  if (values.length === 0) return null;
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[sorted.length >> 1];
}
