// Receives access units over one WebSocket, decodes them with WebCodecs and draws the newest picture.

import { Sparkline, median } from "./charts.js";
import { Panel, figure, milliseconds } from "./panel.js";

const MESSAGE_VERSION = 1;
const HEADER_BYTES = 24;
const FLAG_IDR = 1;
const HELD_LIMIT = 120; // two seconds at 60 fps: a browser says within milliseconds whether it knows a codec
const QUEUE_LIMIT = 10; // a sixth of a second at 60 fps: later than that a viewer is better off at the next key frame
const FIRST_RETRY_MS = 100;
const LONGEST_RETRY_MS = 700; // leaves 300 ms for connecting and the IDR, so that a picture is back within a second
const OPEN_TIMEOUT_MS = 2000;
const SILENCE_MS = 3500; // the status comes every second: three missed mean the connection is dead
const IDR_REPEAT_MS = 1000;
const STALL_MS = 1000; // and never less than three frame intervals
const SAMPLE_MS = 500;
const PING_MS = 2000;

const byId = (id) => document.getElementById(id);
const canvas = byId("picture");
const context = canvas.getContext("2d", { alpha: false });
const panel = new Panel();
const bitrateLine = new Sparkline(byId("bitrate-line"));
const delayLine = new Sparkline(byId("delay-line"));

// What tests and curious people read.
const quad = {
  frames: 0, decoded: 0, drawn: 0, keyFrames: 0, skipped: 0, lost: 0, errors: 0, reconnects: 0, bytes: 0,
  lastFrameId: null, lastDecodedFrameId: null, lastDrawnFrameId: null, latencyMs: null, clockOffsetMs: 0, codec: null, width: 0, height: 0,
  connected: false, state: "connecting", status: null, lastError: null,
  formats: 0, decodedOfFormat: 0, unsupported: null, cure: null,
};
window.quad = quad;

let socket = null;
let connectedBefore = false;
let retryMs = FIRST_RETRY_MS;
let heardAt = 0;
let decoder = null;
let config = null;
let asking = false; // the browser is being asked whether it can decode `config`
let held = []; // what comes meanwhile
let needsKey = true;
let askedAt = -Infinity;
let sequence = null;
let pending = null; // the newest decoded picture, not yet drawn
let drawing = false;
const inDecoder = new Map(); // timestamp → frame id and capture time
let pictureNumber = 0;
let rate = 60;
let drawnAt = 0;
let bestRoundTrip = Infinity;
let sample = { at: performance.now(), bytes: 0, decoded: 0, delays: [] };

function setState(state, text) {
  quad.state = state;
  document.body.dataset.state = state;
  byId("screen").dataset.state = state;
  const pill = byId("connection");
  const word = { live: "Live", waiting: "Waiting", connecting: "Connecting", reconnecting: "Reconnecting", failed: "No picture" }[state];
  if (pill.textContent !== word) pill.textContent = word;
  pill.dataset.state = state;
  byId("veil-text").textContent = text ?? "";
}

function showCure(title, ...paragraphs) {
  const box = byId("cure");
  const strong = document.createElement("strong");
  strong.textContent = title;
  box.replaceChildren(strong, ...paragraphs.map((line) => {
    const made = document.createElement(line.startsWith("$ ") ? "pre" : "p");
    made.textContent = line.replace(/^\$ /, "");
    return made;
  }));
  box.hidden = false;
  quad.cure = box.textContent;
  setState("failed");
}

function hideCure() {
  if (quad.state !== "failed") return;
  byId("cure").hidden = true;
  quad.cure = null;
  setState("waiting", "Waiting for a key frame…");
}

const CODEC_NAMES = { avc1: "H.264", hev1: "HEVC (H.265)", hvc1: "HEVC (H.265)", av01: "AV1" };

function explainUnsupported(codec) {
  const name = CODEC_NAMES[codec.split(".")[0]] ?? codec;
  showCure(`This browser cannot decode ${name}`,
    `The stream now comes as ${codec}. The picture returns by itself when the stream changes to a codec that this browser knows.`,
    "Until then: watch in a browser that has a decoder for it, or play the RTP stream. Whoever runs the stream can change it back:",
    "$ scripts/quad swap encode --set encode.codec=h264");
}

function explainMissingWebCodecs() {
  const port = location.port || (location.protocol === "https:" ? "443" : "80");
  if (window.isSecureContext) {
    showCure("This browser has no WebCodecs", "Use a current Chrome, Edge, Firefox or Safari, or play the RTP stream with ffplay.");
  } else {
    showCure("The browser decodes only on a secure origin",
      "This page came over plain HTTP from another machine. Forward the port over ssh:",
      `$ ssh -L ${port}:127.0.0.1:${port} ${location.hostname}`,
      `and open http://localhost:${port}/ instead. The figures on this page are live all the same.`);
  }
}

// Connection

function address(path, scheme) {
  const url = new URL(path, location.href);
  url.search = "";
  const token = new URLSearchParams(location.search).get("token");
  if (token !== null) url.searchParams.set("token", token);
  if (scheme) url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  return url;
}

function connect() {
  const opened = new WebSocket(address("ws", true));
  opened.binaryType = "arraybuffer";
  socket = opened;
  const timeout = setTimeout(() => abandon(opened), OPEN_TIMEOUT_MS);
  opened.onopen = () => {
    clearTimeout(timeout);
    heardAt = performance.now();
    quad.connected = true;
    if (connectedBefore) quad.reconnects += 1;
    connectedBefore = true;
    bestRoundTrip = Infinity;
    sequence = null;
    config = null; // a hello comes first
    held = [];
    loseDecoder();
    if (quad.state !== "failed") setState("waiting", "Waiting for a key frame…");
    ping();
  };
  opened.onmessage = (event) => {
    if (socket !== opened) return;
    heardAt = performance.now();
    try {
      if (typeof event.data === "string") onText(JSON.parse(event.data));
      else onAccessUnit(event.data);
    } catch (error) {
      fail(error);
    }
  };
  opened.onclose = () => {
    clearTimeout(timeout);
    abandon(opened);
  };
}

// Leaves a connection without waiting for its end, which takes long when the other side is gone, and tries the next.
function abandon(opened) {
  if (socket !== opened) return;
  socket = null;
  opened.close();
  if (quad.state !== "failed") setState("reconnecting", "Reconnecting…");
  if (!quad.connected) findReason();
  quad.connected = false;
  setTimeout(connect, retryMs);
  retryMs = Math.min(retryMs * 2, LONGEST_RETRY_MS);
}

// A WebSocket does not say why it was refused; an ordinary request does.
async function findReason() {
  try {
    const response = await fetch(address("api/status"), { cache: "no-store" });
    if (response.ok) return;
    byId("veil-text").textContent = (await response.text()).trim() || `The server answers ${response.status}`;
  } catch {
    // Not reachable: reconnecting says enough.
  }
}

function say(message) {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}

function ping() {
  say({ ping: performance.timeOrigin + performance.now() });
}

function onText(message) {
  if (message.type === "hello") {
    quad.codec = message.codec;
    quad.width = message.width;
    quad.height = message.height;
    config = { codec: message.codec, codedWidth: message.width, codedHeight: message.height, optimizeForLatency: true };
    rate = Number(message.fps);
    byId("format").textContent = `${message.codec} · ${message.width} × ${message.height} · ${Number.isInteger(rate) ? rate : rate.toFixed(2)} fps`;
    quad.formats += 1;
    quad.decodedOfFormat = 0;
    loseDecoder();
    askBrowser(config);
  } else if (message.type === "status") {
    quad.status = message.status;
    panel.show(message.status);
    const viewers = message.viewers;
    if (quad.state === "waiting" && isNull(message.status)) setState("waiting", "The null encoder makes no picture");
    byId("watching").textContent = Number.isInteger(viewers) ? `${viewers} ${viewers === 1 ? "viewer" : "viewers"}` : "";
  } else if (message.type === "pong") {
    // The exchange with the shortest round trip tells the difference of the clocks best.
    const now = performance.timeOrigin + performance.now();
    const roundTrip = now - message.t;
    if (roundTrip <= bestRoundTrip) {
      bestRoundTrip = roundTrip;
      quad.clockOffsetMs = message.server_us / 1000 - (message.t + roundTrip / 2);
    }
  }
}

// Whether every encoder is the null encoder.
function isNull(status) {
  const encoders = Object.entries(status?.kernels ?? {}).filter(([name]) => name.split(".")[0] === "encode");
  return encoders.length > 0 && encoders.every(([, kernel]) => kernel.codec === "null");
}

// Decoding

// Browsers differ in the codecs they have: the page asks before it decodes, and says so when there is none.
async function askBrowser(wanted) {
  asking = true;
  held = [];
  let supported = false;
  try {
    supported = (await VideoDecoder.isConfigSupported(wanted)).supported === true;
  } catch {
    // Not even a codec string that it knows.
  }
  if (config !== wanted) return; // yet another format came meanwhile, and asks for itself
  asking = false;
  const units = held;
  held = [];
  quad.unsupported = supported ? null : wanted.codec;
  if (!supported) {
    explainUnsupported(wanted.codec);
    return;
  }
  hideCure();
  try {
    for (const unit of units) onAccessUnit(unit);
  } catch (error) {
    fail(error);
  }
}

function loseDecoder() {
  needsKey = true;
  askedAt = performance.now(); // the server asks for a newcomer and after a change of format
  if (decoder && decoder.state !== "closed") decoder.close();
  decoder = null;
  inDecoder.clear();
}

function fail(error) {
  quad.errors += 1;
  quad.lastError = String(error);
  loseDecoder();
  askForKey(true);
}

function askForKey(now) {
  if (!now && performance.now() - askedAt < IDR_REPEAT_MS) return;
  askedAt = performance.now();
  say({ idr: true });
}

function ready() {
  if (decoder) return true;
  if (!config || typeof VideoDecoder === "undefined") return false;
  const made = new VideoDecoder({
    output: (frame) => onPicture(frame),
    error: (error) => { if (decoder === made) fail(error); },
  });
  made.configure(config);
  decoder = made;
  return true;
}

function onAccessUnit(buffer) {
  const view = new DataView(buffer);
  if (buffer.byteLength < HEADER_BYTES || view.getUint8(0) !== MESSAGE_VERSION) {
    throw new Error("The server speaks another version of this page: reload it");
  }
  if (asking) {
    if (held.length === HELD_LIMIT) held = []; // what follows waits for the next key frame
    held.push(buffer);
    return;
  }
  const key = (view.getUint8(1) & FLAG_IDR) !== 0;
  const number = view.getUint32(4);
  if (sequence !== null) quad.lost += (number - sequence - 1) >>> 0;
  sequence = number;
  const id = Number(view.getBigUint64(8));
  quad.frames += 1;
  quad.bytes += buffer.byteLength;
  quad.lastFrameId = id;
  if (key) quad.keyFrames += 1;
  if (quad.unsupported !== null) {
    quad.skipped += 1;
    return;
  }
  if (decoder && decoder.decodeQueueSize > QUEUE_LIMIT) {
    loseDecoder();
    if (!key) askForKey(true);
  }
  if (needsKey && !key) {
    quad.skipped += 1;
    askForKey(false);
    return;
  }
  if (!ready()) return;
  needsKey = false;
  const timestamp = pictureNumber++;
  inDecoder.set(timestamp, { id, captureMs: Number(view.getBigUint64(16)) / 1000 });
  decoder.decode(new EncodedVideoChunk({
    type: key ? "key" : "delta", timestamp, data: new Uint8Array(buffer, HEADER_BYTES),
  }));
}

function onPicture(frame) {
  quad.decoded += 1;
  quad.decodedOfFormat += 1;
  retryMs = FIRST_RETRY_MS;
  const info = inDecoder.get(frame.timestamp);
  inDecoder.delete(frame.timestamp);
  if (info) quad.lastDecodedFrameId = info.id;
  pending?.frame.close();
  pending = { frame, info };
  if (document.hidden) {
    // No animation frames come while hidden: draw nothing, hold one picture.
    return;
  }
  schedule();
}

function schedule() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(draw);
}

function draw() {
  drawing = false;
  if (!pending) return;
  const { frame, info } = pending;
  pending = null;
  if (canvas.width !== frame.displayWidth || canvas.height !== frame.displayHeight) {
    canvas.width = frame.displayWidth;
    canvas.height = frame.displayHeight;
  }
  context.drawImage(frame, 0, 0, canvas.width, canvas.height);
  frame.close();
  quad.drawn += 1;
  drawnAt = performance.now();
  if (info) {
    quad.lastDrawnFrameId = info.id;
    const delay = performance.timeOrigin + performance.now() + quad.clockOffsetMs - info.captureMs;
    quad.latencyMs = delay;
    sample.delays.push(delay);
  }
  if (quad.state !== "live" && quad.state !== "failed" && quad.connected) setState("live");
}

// Figures of this viewer

function megabits(bitsPerSecond) {
  const mega = bitsPerSecond / 1e6;
  return mega >= 100 ? mega.toFixed(0) : mega.toFixed(mega >= 10 ? 1 : 2);
}

setInterval(() => {
  const now = performance.now();
  const seconds = (now - sample.at) / 1000;
  const bits = ((quad.bytes - sample.bytes) * 8) / seconds;
  const fps = (quad.decoded - sample.decoded) / seconds;
  const delay = median(sample.delays);
  bitrateLine.push(quad.connected ? bits : null);
  delayLine.push(delay);
  figure(byId("bitrate"), megabits(bits), "Mbit/s");
  const delayText = delay === null ? "–" : milliseconds(delay * 1000);
  figure(byId("delay"), delayText, "ms");
  figure(byId("screen-p50"), delayText, "ms");
  figure(byId("decode-fps"), fps.toFixed(0), "fps");
  byId("osd-fps").textContent = fps.toFixed(0);
  byId("osd-latency").textContent = delayText;
  byId("osd-frame").textContent = quad.lastDecodedFrameId ?? "–";
  byId("v-received").textContent = quad.frames;
  byId("v-decoded").textContent = quad.decoded;
  byId("v-skipped").textContent = quad.skipped + quad.lost;
  byId("v-errors").textContent = quad.errors;
  byId("v-reconnects").textContent = quad.reconnects;
  sample = { at: now, bytes: quad.bytes, decoded: quad.decoded, delays: [] };
  if (quad.connected && now - heardAt > SILENCE_MS) abandon(socket);
  const patience = Math.max(STALL_MS, 3000 / (rate || 60));
  if (quad.state === "live" && now - drawnAt > patience && !document.hidden) setState("waiting", "No frames arrive…");
}, SAMPLE_MS);
setInterval(ping, PING_MS);

byId("keyframe").addEventListener("click", () => askForKey(true));
const toggleFullscreen = () => {
  if (document.fullscreenElement) document.exitFullscreen();
  else byId("screen").requestFullscreen().catch(() => {});
};
byId("fullscreen").addEventListener("click", toggleFullscreen);
canvas.addEventListener("dblclick", toggleFullscreen);
document.addEventListener("keydown", (event) => {
  if (event.key === "f" && !event.ctrlKey && !event.metaKey && !event.altKey) toggleFullscreen();
});
document.addEventListener("visibilitychange", () => { if (!document.hidden && pending) schedule(); });

// Without a decoder the numbers are still worth showing, and the picture is not worth sending.
async function pollStatus() {
  try {
    const response = await fetch(address("api/status"), { cache: "no-store" });
    quad.status = await response.json();
    panel.show(quad.status);
  } catch {
    // Not reachable, or no JSON: the next attempt follows in a second.
  }
}

if (typeof VideoDecoder === "undefined") {
  explainMissingWebCodecs();
  pollStatus();
  setInterval(pollStatus, 1000);
} else {
  connect();
}
