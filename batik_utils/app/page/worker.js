// The classifier in the browser: a picture is opened, resized as Pillow does and judged here.
"use strict";

importScripts("kinds.js", "ort.wasm.min.js");

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
function weights(inSize, outSize, method) {
  const [reach, filter] = FILTERS[method];
  const scale = inSize / outSize;
  const stretch = Math.max(1, scale);
  const support = reach * stretch;
  return Array.from({ length: outSize }, (_, k) => {
    const centre = (k + 0.5) * scale;
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
// pixels: {data: RGBA bytes, width, height}; returns RGB bytes of a square.
function resize(pixels, size, method) {
  const { data, width, height } = pixels;
  const across = weights(width, size, method);
  const down = weights(height, size, method);
  const middle = new Uint8Array(height * size * 3);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < size; x++) {
      const [first, w] = width === size ? [x, [BITS]] : across[x];
      let r = 0, g = 0, b = 0;
      for (let k = 0, at = (y * width + first) * 4; k < w.length; k++, at += 4) {
        r += data[at] * w[k];
        g += data[at + 1] * w[k];
        b += data[at + 2] * w[k];
      }
      const to = (y * size + x) * 3;
      middle[to] = clip(r);
      middle[to + 1] = clip(g);
      middle[to + 2] = clip(b);
    }
  }
  const out = new Uint8Array(size * size * 3);
  const line = size * 3;
  for (let y = 0; y < size; y++) {
    const [first, w] = height === size ? [y, [BITS]] : down[y];
    for (let x = 0; x < line; x++) {
      let sum = 0;
      for (let k = 0, at = first * line + x; k < w.length; k++, at += line) sum += middle[at] * w[k];
      out[y * line + x] = clip(sum);
    }
  }
  return out;
}

// Open a file upright, on white, without colour management, as the package does.
async function open(file) {
  const kind = await kindOf(file);
  if (kind && kind !== "avif") throw new Refused(kind);
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, {
      imageOrientation: "from-image", colorSpaceConversion: "none", premultiplyAlpha: "none",
    });
  } catch {
    throw new Refused(kind || "damaged");
  }
  const { width, height } = bitmap;
  if (Math.min(width, height) < limits.side) throw new Refused("small");
  if (width * height > limits.pixels) throw new Refused("pixels");
  const pen = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
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

let session, limits, classes, model;

// The same words as Predictor.judge.
function judge(p, familiarity, cloth, evidence) {
  const { rules } = model;
  const best = p.indexOf(Math.max(...p));
  const probabilities = Object.fromEntries(classes.map((motif, k) => [motif, p[k]]));
  if (!(familiarity >= rules.familiarity_threshold)) {
    const tells = cloth !== undefined && rules.cloth_threshold !== undefined;
    const level = tells && !(cloth >= rules.cloth_threshold) ? "no_cloth" : "other_cloth";
    return { verdict: "none", motif: null, level, words: null, probabilities, familiarity };
  }
  const familiar = familiarity >= (rules.sure_familiarity ?? -Infinity);
  const sure = familiar && p[best] >= rules.sure_from;
  const words = sure ? "sure" : p[best] >= rules.probably_from ? "probably" : "either";
  let grid = null;
  if (evidence) {
    const [, , rows, columns] = evidence.dims;
    const map = evidence.data.slice(best * rows * columns, (best + 1) * rows * columns);
    grid = Array.from({ length: rows }, (_, y) => Array.from(map.slice(y * columns, (y + 1) * columns)));
  }
  return {
    verdict: sure ? "sure" : "unsure", motif: classes[best], level: "motif", words,
    probabilities, familiarity, evidence: grid,
  };
}

async function classify(file) {
  try {
    const { size, interpolation } = model;
    const pixels = resize(await open(file), size, interpolation);
    if (spread(pixels) < limits.spread) throw new Refused("plain");
    const found = await session.run({ pixels: new ort.Tensor("uint8", pixels, [1, size, size, 3]) });
    return judge(Array.from(found.probabilities.data), found.familiarity.data[0], found.cloth?.data[0], found.evidence);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    return { verdict: "refused", kind: error.message, motif: null, level: null, probabilities: {} };
  }
}

// Fetch a file with its bytes counted, unpacked while it comes, or take it from the cache of an
// earlier visit; `stored` gets what must end before the page works without internet.
async function load({ url, bytes }, count, stored) {
  const cache = self.caches ? await caches.open(model.cache).catch(() => null) : null;
  const kept = await cache?.match(url);
  if (kept) {
    count(bytes);
    return new Uint8Array(await kept.arrayBuffer());
  }
  const found = await fetch(url);
  if (!found.ok) throw new Error(`${url}: ${found.status}`);
  const reader = found.body.getReader();
  let next = await reader.read();
  const packed = next.value?.[0] === 0x1f && next.value[1] === 0x8b; // else the server had it unpacked
  const counted = new ReadableStream({
    async pull(controller) {
      if (next.done) return controller.close();
      count(next.value.length);
      controller.enqueue(next.value);
      next = await reader.read();
    },
  });
  const plain = packed ? counted.pipeThrough(new DecompressionStream("gzip")) : counted;
  const content = new Uint8Array(await new Response(plain).arrayBuffer());
  if (cache) stored.push(cache.put(url, new Response(content)).catch(() => {}));
  return content;
}

async function start(settings) {
  ({ limits, classes, model } = settings);
  let loaded = 0;
  const all = model.files.reduce((sum, file) => sum + file.bytes, 0);
  const count = (bytes) => {
    loaded += bytes;
    postMessage({ progress: Math.min(99, Math.floor((100 * loaded) / all)) });
  };
  const stored = [];
  const [runtime, network] = model.files.map((file) => load(file, count, stored));
  ort.env.wasm.wasmBinary = (await runtime).buffer;
  ort.env.wasm.wasmPaths = { mjs: new URL("ort-wasm-simd-threaded.mjs", location.href).href };
  ort.env.wasm.numThreads = 1;
  // a network of one identity, so that the runtime is compiled while the model is on its way
  const tiny = Uint8Array.from(atob("CAgSADo3ChAKAXgSAXkiCElkZW50aXR5EgFnWg8KAXgSCgoICAESBAoCCAFiDwoBeRIKCggIARIECgIIAUIECgAQEQ=="), (c) => c.charCodeAt(0));
  await ort.InferenceSession.create(tiny, { executionProviders: ["wasm"] });
  session = await ort.InferenceSession.create(await network, { executionProviders: ["wasm"] });
  postMessage({ ready: true });
  await Promise.all(stored);
  postMessage({ stored: true });
}

self.onmessage = async ({ data: message }) => {
  const { id } = message;
  try {
    if (message.start) await start(message.start);
    else postMessage({ id, answer: await classify(message.file) });
  } catch (error) {
    postMessage(message.start ? { failed: String(error) } : { id, error: String(error) });
  }
};
