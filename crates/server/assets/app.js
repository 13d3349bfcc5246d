// The page: a picture, two budgets side by side, and the load.

import { draw, example } from "./patches.js";
import { fill, percent, watch } from "./load.js";
import * as memory from "./memory.js";

const MOST_BYTES = 4 << 20;
const MOST_SIDE = 2048;

const find = (name) => document.getElementById(name);
const message = (text) => { find("message").textContent = text; };

let key = sessionStorage.getItem("key") ?? "";
let picture; // { blob, bitmap }
const sides = [];

async function ask(path, options = {}) {
  const headers = { ...(key && { Authorization: `Bearer ${key}` }), ...options.headers };
  const response = await fetch(path, { ...options, headers });
  if (response.status === 401) find("key-form").hidden = false;
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error ?? `status ${response.status}`);
  return answer;
}

/// One model at one budget.
class Side {
  constructor(models, share) {
    this.root = find("side").content.firstElementChild.cloneNode(true);
    const of = (name) => this.root.querySelector(`.${name}`);
    Object.assign(this, {
      model: of("model"), share: of("share"), shareText: of("share-text"), fault: of("fault"), canvas: of("patches"),
      block: of("block"), blockText: of("block-text"), tokens: of("tokens"), classes: of("classes"),
      figures: of("figures"), memory: of("memory"),
    });
    this.model.append(...models.map(({ name, policy }) => new Option(`${name} (${policy})`, name)));
    this.share.value = share;
    this.atEnd = true;
    this.share.addEventListener("input", () => { this.sayShare(); this.later(); });
    this.model.addEventListener("change", () => this.run());
    this.block.addEventListener("input", () => {
      this.atEnd = this.block.value === this.block.max;
      this.show();
    });
    memory.listen(this.memory, (name) => this.remember(name));
    this.sayShare();
    find("sides").append(this.root);
  }

  sayShare() {
    this.shareText.textContent = percent(this.share.value);
    this.share.setAttribute("aria-valuetext", percent(this.share.value));
  }

  /// Asks when the slider has rested for a moment.
  later() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.run(), 80);
  }

  /// The address of what the model does.
  path(what, options) {
    return `/v1/models/${encodeURIComponent(this.model.value)}/${what}?${new URLSearchParams(options)}`;
  }

  /// Adds the picture to the model's memory.
  async remember(name) {
    const { blob } = picture;
    const path = this.path("memory", { class: name, source: "page" });
    await ask(path, { method: "POST", headers: { "Content-Type": blob.type }, body: blob });
    await Promise.all(sides.map((side) => side.run()));
  }

  async run() {
    if (!picture) return;
    this.stop?.abort();
    this.stop = new AbortController();
    const path = this.path("classify", { flops: this.share.value, top: 5, explain: true });
    const started = performance.now();
    try {
      const body = picture.blob;
      const headers = { "Content-Type": body.type };
      const answer = await ask(path, { method: "POST", headers, body, signal: this.stop.signal });
      this.result = answer.results[0];
      this.took = performance.now() - started;
      this.bitmap = picture.bitmap;
      this.fault.textContent = "";
      const layers = this.result.layers.length;
      const place = this.atEnd ? layers : Math.min(Number(this.block.value), layers);
      this.block.max = layers;
      this.block.value = place;
      this.show();
    } catch (error) {
      if (error.name !== "AbortError") this.fault.textContent = error.message;
    }
  }

  show() {
    const { result } = this;
    if (!result) return;
    const layer = Number(this.block.value) - 1;
    draw(this.canvas, this.bitmap, result, layer);
    const tokens = layer < 0 ? result.tokens : result.layers[layer].tokens;
    const text = layer < 0 ? `the embedding: ${tokens} tokens`
      : `block ${result.layers[layer].layer + 1}: ${tokens} of ${result.tokens} tokens`;
    this.blockText.textContent = text;
    this.block.setAttribute("aria-valuetext", text);
    this.canvas.setAttribute("aria-label", `The picture after ${text}`);
    const counts = [result.tokens, ...result.layers.map((layer) => layer.tokens)];
    this.tokens.replaceChildren(...counts.map((count, index) => {
      const bar = document.createElement("span");
      bar.style.height = `${(100 * count) / result.tokens}%`;
      bar.classList.toggle("shown", index === layer + 1);
      return bar;
    }));
    this.classes.replaceChildren(...result.classes.map(({ class: name, probability }) => {
      const [item, bar, label, value] = ["li", "span", "span", "span"].map((tag) => document.createElement(tag));
      bar.className = "bar";
      bar.style.width = `${100 * probability}%`;
      label.textContent = name;
      value.textContent = `${(100 * probability).toFixed(1)} %`;
      item.append(bar, label, value);
      return item;
    }));
    memory.show(this.memory, result.memory);
    const { time } = result;
    fill(this.figures, [
      ["FLOPs", `${(result.flops / 1e9).toFixed(2)} G, ${(100 * result.flops_share).toFixed(1)} % of dense`],
      ["Tokens at the end", `${counts.at(-1)} of ${result.tokens}`],
      ["Computing", `${time.compute_ms.toFixed(1)} ms`],
      ["Waiting and decoding", `${(time.queue_ms + time.prepare_ms).toFixed(1)} ms`],
      ["With the way there and back", `${this.took.toFixed(0)} ms`],
    ]);
  }
}

/// A picture that the server takes: as it is, or a smaller copy.
async function take(blob) {
  try {
    let bitmap = await createImageBitmap(blob);
    const known = ["image/jpeg", "image/png", "image/webp"].includes(blob.type);
    if (!known || blob.size > MOST_BYTES || Math.max(bitmap.width, bitmap.height) > MOST_SIDE) {
      const scale = Math.min(1, MOST_SIDE / Math.max(bitmap.width, bitmap.height));
      const size = [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.round(side * scale)));
      const canvas = new OffscreenCanvas(...size);
      canvas.getContext("2d").drawImage(bitmap, 0, 0, ...size);
      blob = await canvas.convertToBlob({ type: "image/jpeg", quality: 0.92 });
      bitmap = await createImageBitmap(blob);
    }
    picture = { blob, bitmap };
    message("");
    await Promise.all(sides.map((side) => side.run()));
  } catch (error) {
    message(`This is no picture that the browser can show: ${error.message}`);
  }
}

function listen() {
  const [drop, file, video] = [find("drop"), find("file"), find("video")];
  find("choose").addEventListener("click", () => file.click());
  file.addEventListener("change", () => { if (file.files[0]) take(file.files[0]); });
  find("example").addEventListener("click", async () => take(await example()));
  document.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.classList.remove("over"); });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    const [dropped] = event.dataTransfer.files;
    if (dropped) take(dropped);
  });
  document.addEventListener("paste", (event) => {
    const [pasted] = event.clipboardData.files;
    if (pasted) take(pasted);
  });
  const close = () => {
    video.srcObject?.getTracks().forEach((track) => track.stop());
    video.srcObject = null;
    find("viewfinder").hidden = true;
  };
  find("camera").addEventListener("click", async () => {
    try {
      video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
      find("viewfinder").hidden = false;
      await video.play();
      find("shoot").focus();
    } catch (error) {
      message(`The camera cannot be used: ${error.message}`);
    }
  });
  find("shoot").addEventListener("click", async () => {
    const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
    canvas.getContext("2d").drawImage(video, 0, 0);
    close();
    take(await canvas.convertToBlob({ type: "image/jpeg", quality: 0.92 }));
  });
  find("stop").addEventListener("click", close);
  find("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    key = find("key").value;
    sessionStorage.setItem("key", key);
    find("key-form").hidden = true;
    start();
  });
}

async function start() {
  if (sides.length) return;
  try {
    const models = await ask("/v1/models");
    sides.push(new Side(models, 1), new Side(models, 0.5));
    if (models.length > 1) sides[1].model.selectedIndex = 1;
    watch(find("load"), ask);
    if (picture) sides.forEach((side) => side.run());
  } catch (error) {
    message(error.message);
  }
}

listen();
start();
