// The classifier in the browser alone: a picture is opened, resized and judged here; nothing is sent.
// What it knows (texts, classes, framing, thresholds) comes from data.json, which
// `python -m batik_utils web` writes from the package. `window.batik` serves the tests.
"use strict";

const MAGIC = [
  [0xff, 0xd8, 0xff], // JPEG
  [0x89, 0x50, 0x4e, 0x47], // PNG
  [0x47, 0x49, 0x46, 0x38], // GIF
  [0x42, 0x4d], // BMP
  [0x52, 0x49, 0x46, 0x46], // WebP
];
// Pillow's filters: weight at x, and how far it reaches
const FILTERS = {
  box: [0.5, (x) => (x > -0.5 && x <= 0.5 ? 1 : 0)],
  bilinear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
  bicubic: [2, (x) => {
    const a = -0.5;
    x = Math.abs(x);
    if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
    return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
  }],
};
const BITS = 2 ** 22; // Pillow's fixed-point precision for 8-bit pictures

class Refused extends Error {}

// Weights of every output pixel, as Pillow's precompute_coeffs (src/libImaging/Resample.c) has them.
function weights(inSize, from, to, outSize, name) {
  const [reach, filter] = FILTERS[name];
  const scale = (to - from) / outSize;
  const stretch = Math.max(1, scale);
  const support = reach * stretch;
  return Array.from({ length: outSize }, (_, k) => {
    const centre = from + (k + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const last = Math.min(inSize, Math.trunc(centre + support + 0.5));
    const raw = [];
    for (let x = first; x < last; x++) raw.push(filter((x - centre + 0.5) / stretch));
    const sum = raw.reduce((a, b) => a + b, 0);
    const whole = raw.map((w) => {
      const share = sum ? w / sum : w;
      return Math.trunc(share * BITS + (share < 0 ? -0.5 : 0.5));
    });
    return [first, whole];
  });
}

const clip = (sum) => Math.min(255, Math.max(0, Math.floor((sum + BITS / 2) / BITS)));

// Pillow's Image.resize with antialiasing: columns first, then rows, rounded to 8 bit in between.
// pixels: {data: RGBA bytes, width, height}; box: part to take; returns RGB bytes.
function resize(pixels, outWidth, outHeight, name, box) {
  const { data, width, height } = pixels;
  const [left, top, right, bottom] = box || [0, 0, width, height];
  const across = weights(width, left, right, outWidth, name);
  const down = weights(height, top, bottom, outHeight, name);
  const begin = down[0][0];
  const end = Math.max(...down.map(([first, w]) => first + w.length));
  const middle = new Uint8Array((end - begin) * outWidth * 3);
  const keepX = outWidth === width && left === 0 && right === width;
  for (let y = begin; y < end; y++) {
    for (let x = 0; x < outWidth; x++) {
      const [first, w] = keepX ? [x, [BITS]] : across[x];
      let r = 0, g = 0, b = 0;
      for (let k = 0, at = (y * width + first) * 4; k < w.length; k++, at += 4) {
        r += data[at] * w[k];
        g += data[at + 1] * w[k];
        b += data[at + 2] * w[k];
      }
      const to = ((y - begin) * outWidth + x) * 3;
      middle[to] = clip(r);
      middle[to + 1] = clip(g);
      middle[to + 2] = clip(b);
    }
  }
  const keepY = outHeight === height && top === 0 && bottom === height;
  const out = new Uint8Array(outWidth * outHeight * 3);
  const line = outWidth * 3;
  for (let y = 0; y < outHeight; y++) {
    const [first, w] = keepY ? [y, [BITS]] : down[y];
    for (let x = 0; x < line; x++) {
      let sum = 0;
      for (let k = 0, at = (first - begin) * line + x; k < w.length; k++, at += line) {
        sum += middle[at] * w[k];
      }
      out[y * line + x] = clip(sum);
    }
  }
  return out;
}

// The same as batik_utils/preprocessing.py: frame.
function frame(pixels, { size, fit, interpolation }) {
  const { width, height } = pixels;
  if (fit === "squash") return resize(pixels, size, size, interpolation);
  if (fit === "cover") {
    const side = Math.min(width, height);
    const [left, top] = [(width - side) / 2, (height - side) / 2];
    return resize(pixels, size, size, interpolation, [left, top, left + side, top + side]);
  }
  const scale = size / Math.max(width, height);
  const even = (x) => { // Python rounds a half to the even number
    const down = Math.floor(x);
    return x - down === 0.5 ? down + (down % 2) : Math.round(x);
  };
  const w = Math.max(1, even(width * scale)), h = Math.max(1, even(height * scale));
  const inner = resize(pixels, w, h, interpolation);
  const square = new Uint8Array(size * size * 3).fill(255);
  const left = Math.floor((size - w) / 2), top = Math.floor((size - h) / 2);
  for (let y = 0; y < h; y++) {
    square.set(inner.subarray(y * w * 3, (y + 1) * w * 3), ((top + y) * size + left) * 3);
  }
  return square;
}

// Open a file upright, on white, without colour management, as the package does.
async function open(file, limits) {
  if (!file.size) throw new Refused("empty");
  if (file.size > limits.bytes) throw new Refused("bytes");
  const head = new Uint8Array(await file.slice(0, 4).arrayBuffer());
  if (!MAGIC.some((magic) => magic.every((byte, k) => head[k] === byte))) throw new Refused("format");
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, {
      imageOrientation: "from-image", colorSpaceConversion: "none", premultiplyAlpha: "none",
    });
  } catch {
    throw new Refused("damaged");
  }
  const { width, height } = bitmap;
  if (Math.min(width, height) < limits.side) throw new Refused("small");
  if (width * height > limits.pixels) throw new Refused("pixels");
  const canvas = new OffscreenCanvas(width, height);
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  if (!pen) throw new Refused("pixels");
  pen.fillStyle = "white";
  pen.fillRect(0, 0, width, height);
  pen.drawImage(bitmap, 0, 0);
  bitmap.close();
  return pen.getImageData(0, 0, width, height);
}

// Largest standard deviation of a channel, 0 to 255.
function spread(rgb) {
  return Math.max(...[0, 1, 2].map((channel) => {
    let sum = 0, squares = 0;
    for (let k = channel; k < rgb.length; k += 3) {
      sum += rgb[k];
      squares += rgb[k] ** 2;
    }
    const n = rgb.length / 3;
    return Math.sqrt(Math.max(0, squares / n - (sum / n) ** 2));
  }));
}

let data, session, last = null;
const $ = (id) => document.getElementById(id);
const say = (key, values = {}) => data.texts[$("language").value].say[key]
  .replace(/\{(\w+)\}/g, (_, name) => values[name]);
const facts = (motif) => data.texts[$("language").value].motifs[motif];
const percent = (p) => (p > 0.99 ? "> 99 %" : p < 0.01 ? "< 1 %" : `${Math.round(100 * p)} %`);

async function start() {
  data = await (await fetch("data.json")).json();
  ort.env.wasm.wasmPaths = new URL("./", location.href).href;
  ort.env.wasm.numThreads = 1;
  session = await ort.InferenceSession.create("model.onnx", { executionProviders: ["wasm"] });
}

async function classify(file) {
  let pixels;
  try {
    pixels = await open(file, data.limits);
  } catch (error) {
    if (error instanceof Refused) return { verdict: "refused", kind: error.message };
    throw error;
  }
  const size = data.framing.size;
  const framed = frame(pixels, data.framing);
  if (spread(framed) < data.limits.spread) return { verdict: "refused", kind: "plain" };
  const input = new ort.Tensor("uint8", framed, [1, size, size, 3]);
  const found = await session.run({ pixels: input });
  const p = Array.from(found.probabilities.data);
  const familiarity = found.familiarity.data[0];
  const best = p.indexOf(Math.max(...p));
  const probabilities = Object.fromEntries(data.classes.map((name, k) => [name, p[k]]));
  const verdict = !(familiarity >= data.threshold) ? "none" : p[best] < data.sureFrom ? "unsure" : "sure";
  const motif = verdict === "none" ? null : data.classes[best];
  return { verdict, motif, probabilities, familiarity };
}

function element(tag, inner = "", name = "") {
  const made = document.createElement(tag);
  made.innerHTML = inner; // only the package's own texts and numbers come here
  if (name) made.className = name;
  return made;
}

function show() {
  const section = element("section", "", last ? last.verdict : "waiting");
  if (!last) section.append(element("p", say("waiting"), "quiet"));
  else if (last.verdict === "refused") {
    section.append(element("h2", say("refused")), element("p", say(`kind_${last.kind}`)));
  } else {
    const name = last.motif ? facts(last.motif)[0] : "";
    section.append(element("h2", say(last.verdict, { motif: name })));
    if (last.verdict !== "sure") section.append(element("p", say(`${last.verdict}_note`)));
    const bars = element("ul", "", "bars");
    bars.ariaLabel = say("probabilities");
    const ranked = Object.entries(last.probabilities).sort((a, b) => b[1] - a[1]);
    for (const [motif, p] of ranked) {
      bars.append(element("li", `<div class="words"><span>${facts(motif)[0]}</span><span>` +
        `${percent(p).replace("<", "&lt;").replace(">", "&gt;")}</span></div><div class="track" ` +
        `aria-hidden="true"><div class="bar" style="width:${(100 * p).toFixed(1)}%"></div></div>`));
    }
    section.append(bars);
    if (last.verdict === "sure") {
      const hundred = Math.min(99, Math.round(100 * ranked[0][1]));
      section.append(element("p", say("sure_note", { hundred }), "quiet"));
    }
    if (last.motif) {
      const [, origin, signs, meaning] = facts(last.motif);
      section.append(element("dl", `<dt>${say("origin")}</dt><dd>${origin}</dd><dt>${say("signs")}` +
        `</dt><dd>${signs}</dd><dt>${say("meaning")}</dt><dd>${meaning}</dd>`));
      section.append(element("div", data.texts[$("language").value].sources[last.motif] || ""));
    }
  }
  $("answer").replaceChildren(section);
}

function speak() {
  document.documentElement.lang = $("language").value;
  document.title = $("title").textContent = say("title");
  $("intro").innerHTML = say("intro").replace(/\*\*(.+?)\*\*/g, "<b>$1</b>");
  for (const [id, key] of [["language-label", "language"], ["placeholder", "placeholder"],
    ["examples-label", "examples"], ["private", "web_private"]]) $(id).textContent = say(key);
  document.querySelectorAll("#examples button").forEach((b, k) => { b.ariaLabel = `${say("example")} ${k + 1}`; });
  show();
}

async function take(file) {
  if (!file) return;
  URL.revokeObjectURL($("shown").src);
  $("shown").src = URL.createObjectURL(file);
  $("shown").hidden = false;
  $("answer").ariaBusy = "true";
  try {
    last = await classify(file);
  } catch (error) {
    console.error(error);
    last = { verdict: "refused", kind: "damaged" };
  }
  $("answer").ariaBusy = "false";
  show();
}

async function main() {
  await start();
  for (const [code, { name }] of Object.entries(data.texts)) $("language").append(new Option(name, code));
  $("language").value = /^(id|jv|su)/.test(navigator.language) ? "id" : "en";
  $("language").onchange = speak;
  for (const path of data.examples) {
    const button = element("button", `<img src="${path}" alt="">`);
    button.onclick = async () => take(await (await fetch(path)).blob());
    $("examples").append(button);
  }
  $("file").onchange = () => take($("file").files[0]);
  document.onpaste = (event) => take([...event.clipboardData.files][0]);
  document.ondragover = (event) => { event.preventDefault(); $("drop").classList.add("over"); };
  document.ondragleave = () => $("drop").classList.remove("over");
  document.ondrop = (event) => {
    event.preventDefault();
    $("drop").classList.remove("over");
    take(event.dataTransfer.files[0]);
  };
  speak();
}

window.batik = { classify, open, frame, resize, ready: main() };
window.batik.ready.catch((error) => {
  console.error(error);
  document.getElementById("answer").textContent = "The model could not be loaded. Model tidak dapat dimuat.";
});
