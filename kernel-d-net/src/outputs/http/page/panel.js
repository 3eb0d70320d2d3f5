// The four kernels, the rings between them and the latency, out of the status message. Everything in it may be missing.

const STAGES = ["capture", "process", "encode", "net"];
const LETTER = { capture: "A", process: "B", encode: "C", net: "D" };
const TITLE = { capture: "Capture", process: "Process", encode: "Encode", net: "Net" };
const GOOD = new Set(["running"]);
const BAD = new Set(["dead", "failed", "exited", "stopped", "hung", "crashed"]);
const LABEL_PX = 34; // width of a figure such as 12.3
const NOTABLE_US = 5; // shorter waits would read as 0.00 ms
const SLOTS_SHOWN = 32; // more would be thinner than a pixel can show

const byId = (id) => document.getElementById(id);
const stageOf = (name) => name.split(".")[0];
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

export function milliseconds(us) {
  if (!isNumber(us)) return "–";
  const ms = us / 1000;
  return ms < 10 ? ms.toFixed(2) : ms < 100 ? ms.toFixed(1) : ms.toFixed(0);
}

export function figure(element, text, unit) {
  if (text === "–" || !unit) { element.textContent = text; return; }
  const small = document.createElement("small");
  small.textContent = unit;
  element.replaceChildren(text, small);
}

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

// The order A → B → C → D; instances of one kind by name.
function inFlow(names) {
  const rank = (name) => { const at = STAGES.indexOf(stageOf(name)); return at < 0 ? STAGES.length : at; };
  return [...names].sort((a, b) => rank(a) - rank(b) || (a < b ? -1 : 1));
}

class KernelCard {
  constructor(name) {
    const stage = stageOf(name);
    this.root = element("li", `kernel tone-${stage}`);
    const head = this.root.appendChild(element("header"));
    head.appendChild(element("span", "letter", LETTER[stage] ?? "?")).setAttribute("aria-hidden", "true");
    const title = head.appendChild(element("h3", "title"));
    const instance = name.slice(stage.length + 1);
    title.append((TITLE[stage] ?? name) + (instance && instance !== "main" ? ` · ${instance}` : ""));
    this.backend = title.appendChild(element("span", "backend"));
    this.state = head.appendChild(element("span", "pill"));
    const list = this.root.appendChild(element("dl"));
    this.fields = {};
    for (const [key, label] of [["fps", "fps"], ["cpu", "CPU"], ["epoch", "epoch"], ["restarts", "restarts"]]) {
      const cell = list.appendChild(element("div"));
      cell.appendChild(element("dt", "", label));
      this.fields[key] = cell.appendChild(element("dd", "", "–"));
    }
    this.meter = list.appendChild(element("div", "meter")).appendChild(element("i"));
    this.trouble = this.root.appendChild(element("p", "note"));
    this.trouble.hidden = true;
  }

  show(kernel) {
    const state = String(kernel.state ?? "unknown");
    const tone = GOOD.has(state) ? "good" : BAD.has(state) ? "bad" : "warn";
    this.root.dataset.tone = tone;
    this.state.dataset.tone = tone;
    this.state.textContent = state;
    this.backend.textContent = [kernel.backend, kernel.codec, isNumber(kernel.pid) ? `pid ${kernel.pid}` : null]
      .filter(Boolean).join(" · ");
    const { fps, cpu, epoch, restarts } = this.fields;
    fps.textContent = isNumber(kernel.fps) ? kernel.fps.toFixed(1) : "–";
    cpu.textContent = isNumber(kernel.cpu_percent) ? `${kernel.cpu_percent.toFixed(1)} %` : "–";
    epoch.textContent = kernel.epoch ?? "–";
    restarts.textContent = kernel.restarts ?? "–";
    restarts.classList.toggle("alarm", kernel.restarts > 0);
    this.meter.style.transform = `scaleX(${Math.min(1, Math.max(0, (kernel.cpu_percent ?? 0) / 100))})`;
    const trouble = [];
    if (kernel.dropped > 0) trouble.push(`${kernel.dropped} dropped`);
    if (kernel.errors > 0) trouble.push(`${kernel.errors} errors`);
    this.trouble.textContent = trouble.join(" · ");
    this.trouble.hidden = trouble.length === 0;
  }
}

class RingRow {
  constructor(name, from, to) {
    this.name = name;
    this.root = element("li", "ring");
    this.root.style.setProperty("--from", `var(--${from})`);
    this.root.style.setProperty("--to", `var(--${to})`);
    this.root.appendChild(element("span", "wire")).setAttribute("aria-hidden", "true");
    const body = this.root.appendChild(element("div"));
    const label = body.appendChild(element("div", "label"));
    this.depth = label.appendChild(element("span"));
    this.frame = label.appendChild(element("span"));
    this.slots = body.appendChild(element("div", "slots"));
    this.slots.setAttribute("role", "meter");
    this.slots.setAttribute("aria-valuemin", "0");
    this.slots.setAttribute("aria-label", `Depth of ring ${name}`);
    this.last = null;
  }

  show(ring) {
    const slots = isNumber(ring.slots) ? ring.slots : 0;
    const ready = isNumber(ring.ready) ? ring.ready : 0;
    const shown = Math.min(slots, SLOTS_SHOWN);
    while (this.slots.children.length < shown) this.slots.append(element("i"));
    while (this.slots.children.length > shown) this.slots.lastChild.remove();
    const full = slots > shown ? Math.ceil((ready * shown) / slots) : ready;
    [...this.slots.children].forEach((cell, i) => cell.classList.toggle("full", i < full));
    this.slots.classList.toggle("tight", slots > 0 && ready * 4 >= slots * 3);
    this.slots.setAttribute("aria-valuemax", String(slots));
    this.slots.setAttribute("aria-valuenow", String(ready));
    this.depth.textContent = `ring ${this.name} · ${ready} of ${slots}`;
    this.frame.textContent = isNumber(ring.last_frame_id) ? `#${ring.last_frame_id}` : "";
    this.root.classList.toggle("idle", ring.last_frame_id === this.last);
    this.last = ring.last_frame_id;
  }
}

export class Panel {
  constructor() {
    this.shape = "";
    this.kernels = new Map();
    this.rings = new Map();
    this.segments = null;
  }

  show(status) {
    if (status === null || typeof status !== "object") return;
    const kernels = status.kernels ?? {};
    const rings = status.rings ?? {};
    const shape = JSON.stringify([Object.keys(kernels), Object.keys(rings)]);
    if (shape !== this.shape) this.build(Object.keys(kernels), Object.keys(rings));
    this.shape = shape;
    for (const [name, card] of this.kernels) card.show(kernels[name] ?? {});
    for (const [name, row] of this.rings) row.show(rings[name] ?? {});
    byId("instance").textContent = status.instance ?? "";
    byId("flow-empty").hidden = this.kernels.size > 0;
    this.latency(status.latency_us ?? {});
  }

  build(kernels, rings) {
    this.kernels.clear();
    this.rings.clear();
    const flow = byId("flow");
    flow.replaceChildren();
    const names = inFlow(kernels);
    names.forEach((name, i) => {
      const card = new KernelCard(name);
      this.kernels.set(name, card);
      flow.append(card.root);
      const stage = stageOf(name);
      if (i + 1 < names.length && stageOf(names[i + 1]) === stage) return;
      const next = STAGES[STAGES.indexOf(stage) + 1] ?? stage;
      for (const ring of inFlow(rings.filter((ring) => stageOf(ring) === stage))) {
        const row = new RingRow(ring, stage, next);
        this.rings.set(ring, row);
        flow.append(row.root);
      }
    });
  }

  latency(latency) {
    const wire = latency.capture_to_wire ?? {};
    for (const key of ["p50", "p95", "p99", "max"]) figure(byId(`wire-${key}`), milliseconds(wire[key]), "ms");
    const parts = [];
    for (const stage of STAGES) {
      const found = latency[stage] ?? latency[`${stage}.main`];
      if (!found) continue;
      const wait = isNumber(found.wait_us) ? found.wait_us : found.wait_us?.p50;
      if (isNumber(wait)) parts.push({ stage, wait: true, us: wait });
      if (isNumber(found.p50)) parts.push({ stage, wait: false, us: found.p50 });
    }
    const total = parts.reduce((sum, part) => sum + part.us, 0);
    const stack = byId("stack");
    const shape = parts.map((part) => part.stage + part.wait).join();
    if (shape !== this.segments) {
      stack.replaceChildren(...parts.map((part) => element("div", `tone-${part.stage}${part.wait ? " wait" : ""}`)));
      this.segments = shape;
    }
    const words = parts.map((part) => `${part.wait ? "waiting for " : ""}${part.stage} ${milliseconds(part.us)} ms`);
    const width = stack.clientWidth;
    parts.forEach((part, i) => {
      const segment = stack.children[i];
      segment.style.flexGrow = String(part.us);
      segment.title = words[i];
      segment.hidden = part.us <= 0;
      segment.textContent = (part.us / total) * width > LABEL_PX ? `${milliseconds(part.us)}` : "";
    });
    stack.setAttribute("aria-label", words.length ? `Median time per frame: ${words.join(", ")}` : "No latency figures yet");
    byId("legend").replaceChildren(...STAGES.filter((stage) => parts.some((part) => part.stage === stage)).map((stage) => {
      const item = element("li", `tone-${stage}`);
      const of = (wait) => parts.find((part) => part.stage === stage && part.wait === wait)?.us;
      item.append(TITLE[stage], element("b", "", `${milliseconds(of(false))} ms`));
      if (of(true) >= NOTABLE_US) item.append(element("span", "note", `waited ${milliseconds(of(true))}`));
      return item;
    }));
  }
}
