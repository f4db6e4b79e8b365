// The page: the same for the application and for the static page. `backend` (server.js or
// browser.js) answers about a file; everything that is said comes from en.json and id.json, which
// stand in the page as data. State is in `state`; `render` draws it again in the chosen language.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const PICTURE = /\.(jpe?g|png|webp|gif|bmp|tiff?|heic|heif|avif|jfif)$/i;
const state = { items: [], current: null, heat: true, progress: null, note: "", failed: false };

// ---- words

const store = (key, value) => {
  try { // private windows may have no storage
    if (value !== undefined) localStorage.setItem(key, value);
    return localStorage.getItem(key);
  } catch { return null; }
};
const wanted = store("batik-language") || (/^(id|jv|su)/.test(navigator.language) ? "id" : "en");
let language = data.languages[wanted] ? wanted : "en";
const texts = () => data.languages[language];
const known = (motif) => texts().motifs[motif];
const name = (motif) => known(motif)?.name || motif[0].toUpperCase() + motif.slice(1);
const inside = (motif) => known(motif)?.inside || motif;
function list(names) {
  const last = names[names.length - 1];
  if (names.length < 2) return last || "";
  return `${names.slice(0, -1).join(", ")} ${texts().say.and} ${last}`;
}
function say(key, values = {}) {
  const count = data.classes.length;
  const all = {
    count: texts().numbers[count] || count, motifs: list(data.classes.map(name)),
    minutes: data.minutes, formats: data.formats, ...values,
  };
  return (texts().say[key] ?? texts().refused[key] ?? texts().refused.format).replace(/\{(\w+)\}/g, (_, k) => all[k]);
}
const percent = (p) => (p > 0.99 ? "> 99 %" : p < 0.01 ? "< 1 %" : `${Math.round(100 * p)} %`);
const ranked = (answer) => Object.entries(answer.probabilities).sort((a, b) => b[1] - a[1]);
// sure, probably, either, other_cloth, no_cloth, none (a model that cannot tell cloth), refused
function grade(answer) {
  if (answer.verdict === "refused") return "refused";
  if (answer.level === "motif") return answer.words;
  return data.tellsCloth ? answer.level : "none";
}
function headline(answer) {
  const [first, second] = ranked(answer).map(([motif]) => motif);
  return say(grade(answer), first ? {
    motif: name(first), inside: inside(first), second: second ? inside(second) : "",
  } : {});
}
function remark(answer) {
  const kind = grade(answer);
  if (kind === "refused") return say(answer.kind);
  const right = data.tested[kind]?.right;
  const hundred = Math.min(99, Math.round(100 * right));
  return [right && kind !== "either" ? say("tested", { hundred }) : "", kind === "sure" ? "" : say(`${kind}_note`)].filter(Boolean).join(" ");
}

// ---- elements

// el("p.quiet", {id: "x", onclick: f}, child, ...): strings are text; {html: …} is for our own texts
function el(what, properties, ...children) {
  const [tag, ...classes] = what.split(".");
  const made = document.createElement(tag);
  if (classes.length) made.className = classes.join(" ");
  for (const [key, value] of Object.entries(properties || {})) {
    if (value === undefined || value === null) continue;
    if (key === "html") made.innerHTML = value;
    else if (key in made && !key.startsWith("aria")) made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}
const button = (words, onclick, kind = "button", more = {}) =>
  el(`button.${kind}`, { type: "button", onclick, ...more }, words);
const heading = (words, level = 2) => el(`h${level}`, null, words);

function actions() {
  return el("div.actions", null,
    button(say("take"), takePhoto, "button.first", { id: "take" }),
    button(say("choose"), () => $("from-files").click(), "button", { id: "choose" }));
}

function drawn(motif, count) {
  return (data.drawn[motif] || []).slice(0, count);
}

// ---- what is read: motifs, about, programs

function motifLinks(motifs) {
  return el("ul.pair.motif-row", null, motifs.map((motif) => el("li", null,
    el("a", { href: `#motif-${motif}` },
      ...drawn(motif, 1).map((src) => el("img", { src, alt: "", loading: "lazy" })),
      el("b", null, name(motif)), known(motif) ? `: ${known(motif).short}` : ""))));
}

function facts(motif, keys) {
  const about = known(motif);
  if (!about) return [];
  const rows = keys.flatMap((key) => [el("dt", null, say(key)), el("dd", { html: about[key] })]);
  return [el("dl", null, rows)];
}

function alike(motif) {
  const others = known(motif)?.alike || [];
  if (!others.length) return [];
  return [el("dl", null, el("dt", null, say("alike")),
    others.map(([what, how]) => el("dd", { html: `<b>${what}</b>: ${how}` })))];
}

function sources(motif) {
  const found = data.sources[motif] || [];
  if (!found.length) return [];
  const links = found.flatMap(([words, href], k) => [k ? " · " : "", el("a", {
    href, target: "_blank", rel: "noopener noreferrer",
  }, words)]);
  return [el("p.sources", null, `${say("sources")}: `, links)];
}

function pictures(entries) {
  return el("ul.gallery", null, entries.map(([src, caption]) => el("li", null,
    el("img", { src, alt: caption, loading: "lazy" }), caption ? el("span.quiet", null, caption) : null)));
}

function gallery(motif) {
  const own = data.gallery.filter((one) => one.motif === motif).map((one) => [one.src, one.caption]);
  return own.length ? [heading(say(motif ? "photographs" : "gallery")), pictures(own)] : [];
}

const pages = {
  motifs: () => [heading(say("motifs"), 1), el("p", null, say("motifs_intro")),
    motifLinks(data.classes), ...gallery("")],
  about: () => [heading(say("about"), 1),
    ...[data.classes.every((m) => data.sources[m]) ? "about_what" : "about_own", "about_not",
      `private_${backend.kind}`].map((key) => el("p", { html: say(key) })),
    data.card ? el("p", null, el("a", { href: data.card }, say("card"))) : null],
  api: () => {
    const address = document.baseURI.replace(/[#?].*$/, "");
    const filled = (code) => el("pre", { tabIndex: 0 }, code.replaceAll("{address}", address));
    return [heading(say("api"), 1), el("p", null, say("api_intro")),
      heading(say("api_python")), filled(data.api.python), heading(say("api_curl")),
      filled(data.api.curl), el("p", null, say("api_health", { address: `${address}health` }))];
  },
};

function motifPage(motif) {
  const examples = drawn(motif, 4);
  return [heading(name(motif), 1),
    ...(examples.length ? [el("ul.row.wide", { "aria-label": say("drawn") }, examples.map((src) =>
      el("li", null, el("img", { src, alt: say("example", { motif: name(motif) }) }))))] : []),
    ...facts(motif, ["signs", "meaning", "origin"]), ...alike(motif), ...sources(motif), ...gallery(motif),
    heading(say("others")), motifLinks(data.classes.filter((other) => other !== motif))];
}

// ---- the three screens with pictures

function startScreen() {
  const examples = data.classes.flatMap((motif) => drawn(motif, 2).map((src) => [motif, src]));
  return [el("section.card.start", { "aria-labelledby": "title" },
    el("h1", { id: "title" }, say("title")), el("p", null, say("intro")),
    ...(state.failed ? [el("p", { role: "alert" }, say(state.failed))] : [actions(),
      el("p.quiet.mouse", null, say("drop")),
      button(say("folder"), () => $("from-folder").click(), "link.mouse", { id: "folder" })])),
  loading(),
  state.failed ? motifLinks(data.classes) : examples.length ? el("section", { "aria-labelledby": "examples" },
    el("p.quiet", { id: "examples" }, say("examples")),
    el("ul.row", null, examples.map(([motif, src]) => el("li", null,
      el("button", {
        type: "button", id: src, "aria-label": say("example", { motif: name(motif) }),
        onclick: () => fetch(src).then((found) => found.blob())
          .then((blob) => take([new File([blob], src.split("/").pop(), { type: blob.type })])),
      }, el("img", { src, alt: "" })))))) : null];
}

function loading() {
  if (state.progress === null || state.failed) return null;
  return el("div.card", null,
    el("p", { id: "loading" }, say("loading", { percent: state.progress })),
    el("progress", { max: 100, value: state.progress, "aria-labelledby": "loading" }),
    el("p.quiet", null, say("loading_note")));
}

function figure(item) {
  const box = el("figure.figure", null);
  const words = say("your_picture", { name: item.name });
  if (item.broken && !item.answer?.preview) {
    box.append(el("p.tile", null, item.name, el("br"), say("no_preview")));
    return box;
  }
  const img = el("img", { src: item.broken ? item.answer.preview : item.url, alt: words });
  const stack = el("div.stack", null, img);
  box.append(stack);
  const grid = item.answer?.evidence;
  if (grid && item.answer.level === "motif") {
    const canvas = el("canvas", { id: "evidence", "aria-hidden": "true", hidden: !state.heat });
    paint(canvas, grid);
    stack.append(canvas);
    box.append(button(say("what_counted"), () => {
      state.heat = !state.heat;
      render();
    }, "switch", { id: "switch", "aria-pressed": String(state.heat) }));
  }
  return box;
}

// Bright where the place spoke for the motif, dim elsewhere; weak evidence stays pale.
function paint(canvas, grid) {
  const [rows, columns] = [grid.length, grid[0].length];
  const top = Math.max(1e-6, ...grid.flat());
  const small = el("canvas", { width: columns, height: rows });
  const pen = small.getContext("2d");
  const pixels = pen.createImageData(columns, rows);
  grid.flat().forEach((value, k) => {
    const warm = Math.max(0, value / top);
    const colour = [30 + 225 * warm, 30 + 150 * warm, 50 + 10 * warm, 105 - 10 * warm];
    pixels.data.set(colour, 4 * k);
  });
  pen.putImageData(pixels, 0, 0);
  [canvas.width, canvas.height] = [columns * 24, rows * 24];
  const large = canvas.getContext("2d");
  large.imageSmoothingQuality = "high";
  large.drawImage(small, 0, 0, canvas.width, canvas.height);
}

function bars(answer) {
  const title = el("p.quiet.small", { id: "bars" }, say("bars"));
  return [title, el("ul.bars", { "aria-labelledby": "bars" }, ranked(answer).slice(0, 3).map(([motif, p]) => {
    const fill = el("i");
    fill.style.width = `${(100 * p).toFixed(1)}%`;
    return el(motif === answer.motif ? "li.named" : "li", null, el("span", null, name(motif)),
      el("span.track", { "aria-hidden": "true" }, fill), el("span", null, percent(p)));
  }))];
}

function oneScreen(item) {
  const answer = item.answer;
  const card = el("section.card", { id: "answer", className: `card ${answer ? grade(answer) : "waiting"}` });
  if (!answer) {
    card.append(...[el("p", { id: "waiting" }, say(state.note || "looking")), loading()].filter(Boolean));
  } else {
    card.append(heading(headline(answer), 1));
    if (answer.level === "motif") card.append(...bars(answer));
    card.append(el("p.quiet", null, remark(answer)));
    if (answer.evidence && answer.level === "motif" && state.heat) {
      card.append(el("p.quiet", null, say("what_counted_note", { inside: inside(answer.motif) })));
    }
  }
  card.append(actions());
  if (state.items.length > 1) {
    card.append(button(say("back_all", { count: state.items.length }), () => open(null), "link"));
  }
  const below = [], aside = [];
  if (answer?.motif && known(answer.motif)) {
    const motif = answer.motif;
    below.push(el("section.card", null, heading(name(motif)), ...facts(motif, ["signs", "meaning", "origin"]),
      ...alike(motif), ...sources(motif),
      el("a", { href: `#motif-${motif}` }, say("more", { inside: inside(motif) }))));
  }
  if (answer && answer.verdict !== "refused") {
    const others = data.classes.filter((motif) => motif !== answer.motif);
    if (others.length) aside.push(el("section.card", null, heading(say(answer.motif ? "others" : "motifs")), motifLinks(others)));
  }
  return [el("div.two", null, el("div.seen", null, figure(item)), el("div.said", null, card, ...below),
    el("div.aside", null, aside))];
}

function manyScreen() {
  const answers = state.items.map((item) => item.answer).filter(Boolean);
  const motifs = data.classes.map((motif) => [motif, answers.filter((a) => a.motif === motif).length]);
  const none = answers.filter((a) => a.verdict === "none").length;
  const refused = answers.filter((a) => a.verdict === "refused").length;
  const parts = [
    ...motifs.filter(([, count]) => count).map(([motif, count]) => say("named", { motif: name(motif), count })),
    ...(none ? [say("none_of", { count: none })] : []), ...(refused ? [say("refused_of", { count: refused })] : [])];
  const done = answers.length === state.items.length;
  return [el("section.card", null,
    heading(say("several", { count: state.items.length }), 1),
    el("p", { id: "summary" }, [done ? "" : say("answered", { done: answers.length, count: state.items.length }), ...parts]
      .filter(Boolean).join(" · ")),
    done ? null : el("progress", { max: state.items.length, value: answers.length, "aria-labelledby": "summary" }),
    state.note ? el("p.quiet", { role: "alert" }, say(state.note, state.values)) : null, loading(),
    el("div.tools", null, button(say("add"), () => $("from-files").click(), "button.first", { id: "add" }),
      button(say("csv"), download, "button", { id: "csv", disabled: !done }),
      button(say("again"), () => { state.items = []; open(null); }, "button", { id: "again" }))),
  el("ul.list", { id: "list" }, state.items.map((item, k) => el("li", null, el("button", {
    type: "button", id: `item-${k}`, onclick: () => open(item), className: item.answer ? grade(item.answer) : "waiting",
  }, item.thumb || el("span.thumb"), el("span", null,
    el("b", null, item.answer ? headline(item.answer) : say("looking")),
    el("small", null, item.answer?.level === "motif" ? `${percent(ranked(item.answer)[0][1])} · ` : "",
      item.answer?.verdict === "refused" ? `${remark(item.answer)} ` : "", item.name))))))];
}

// ---- the table, with the columns of `predict --csv`

function download() {
  const cell = (value) => {
    const text = /^[=+\-@\t\r]/.test(value) && isNaN(value) ? `'${value}` : String(value);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const head = ["file", "verdict", "motif", ...data.classes.map((m) => `p_${m}`), "familiarity", "reason"];
  const rows = state.items.map(({ answer, name: file }) => [file, answer.verdict, answer.motif || "",
    ...data.classes.map((m) => answer.probabilities[m]?.toFixed(4) ?? ""),
    answer.familiarity?.toFixed(4) ?? "", answer.verdict === "sure" ? "" : remark(answer)]);
  const text = [head, ...rows].map((row) => row.map(cell).join(",")).join("\r\n");
  const url = URL.createObjectURL(new Blob([`${text}\r\n`], { type: "text/csv" }));
  el("a", { href: url, download: "batik-motifs.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

// ---- drawing

function render() {
  const focused = document.activeElement?.id;
  const page = decodeURIComponent(location.hash.slice(1));
  const motif = page.startsWith("motif-") ? page.slice(6) : "";
  const read = data.classes.includes(motif) ? () => motifPage(motif) : pages[page];
  const item = state.current || (state.items.length === 1 ? state.items[0] : null);
  document.documentElement.lang = language;
  document.title = $("home").textContent = say("title");
  $("languages").ariaLabel = say("language");
  $("languages").replaceChildren(...Object.entries(data.languages).map(([code, one]) => button(one.name,
    () => { language = code; store("batik-language", code); render(); }, "speak",
    { id: `speak-${code}`, lang: code, "aria-pressed": String(code === language) })));
  $("main").replaceChildren(...(read
    ? [el("article.card.read", null, read(), state.items.length
      ? button(say("back"), () => { location.hash = ""; }, "link") : el("a", { href: "#" }, say("back")))]
    : item ? oneScreen(item) : state.items.length ? manyScreen() : startScreen()).filter(Boolean));
  const links = ["motifs", "about", ...(data.api ? ["api"] : [])];
  $("foot").replaceChildren(
    el("ul", null, links.map((key) => el("li", null, el("a", { id: `to-${key}`, href: `#${key}` }, say(key))))),
    el("span", { id: "private" }, say(`private_short_${backend.kind}`),
      state.offline ? ` ${say("offline")}.` : ""));
  if (focused) $(focused)?.focus({ preventScroll: true });
}
let planned = 0;
const later = () => { // many answers a second are drawn once
  planned ||= requestAnimationFrame(() => { planned = 0; render(); });
};
function tell(words) {
  $("live").textContent = words;
}
function open(item) {
  state.current = item;
  if (location.hash) location.hash = "";
  render();
  scrollTo(0, 0);
}

// ---- pictures come in

const pathOf = (file) => file.place || file.webkitRelativePath || file.name;
// A folder holds more than pictures; a file that was named itself is always answered.
function take(files, { folder = false, append = false } = {}) {
  let found = [...files];
  if (folder) {
    found = found.filter((file) => PICTURE.test(file.name)
      && !`/${pathOf(file)}`.includes("/."));
  }
  state.note = "";
  if (!found.length) {
    if (folder) tell(say(state.note = "nothing"));
    return later();
  }
  const most = data.limits.files;
  if (found.length > most) {
    [state.note, state.values] = ["too_many", { found: found.length, count: most }];
    found = found.slice(0, most);
  }
  const fresh = found.map((file) => ({
    file, name: pathOf(file), url: URL.createObjectURL(file), answer: null,
  }));
  const keep = append || (state.items.length > 1 && fresh.length === 1);
  if (!keep) state.items.forEach((item) => URL.revokeObjectURL(item.url));
  state.items = keep ? [...state.items, ...fresh] : fresh;
  waiting.push(...fresh);
  open(fresh.length === 1 ? fresh[0] : null);
  tell(say("looking"));
  for (let k = 0; k < data.atOnce; k++) work();
}

const waiting = [];
let working = 0;
async function work() {
  if (working >= data.atOnce) return;
  working += 1;
  try {
    for (let item; (item = waiting.shift());) {
      if (state.items.includes(item)) await ask(item);
    }
  } finally { working -= 1; }
}

async function ask(item) {
  await look(item);
  try {
    if (item.file.size > data.limits.bytes) item.answer = refusal("bytes");
    else if (!item.file.size) item.answer = refusal("empty");
    else item.answer = await backend.answer(item.file, item.broken);
    // the server says "format" of every other kind of file; the page knows what helps
    if (item.answer.kind === "format") item.answer.kind = (await kindOf(item.file)) || "format";
  } catch (error) {
    console.error(error);
    item.answer = refusal(state.failed || "failed");
  }
  if (state.items.length === 1) tell(`${headline(item.answer)}. ${remark(item.answer)}`);
  else if (!waiting.length) tell(say("several", { count: state.items.length }));
  later();
}
const refusal = (kind) => ({ verdict: "refused", kind, motif: null, level: null, probabilities: {} });

// A small picture for the list; a file that the browser cannot show must not become a broken image.
async function look(item) {
  const canvas = el("canvas.thumb", { width: 144, height: 144, "aria-hidden": "true" });
  try {
    const bitmap = await createImageBitmap(item.file);
    const side = Math.min(bitmap.width, bitmap.height);
    canvas.getContext("2d").drawImage(bitmap, (bitmap.width - side) / 2, (bitmap.height - side) / 2,
      side, side, 0, 0, 144, 144);
    bitmap.close();
    item.thumb = canvas;
  } catch {
    item.broken = true;
  }
  later();
}

// ---- the camera: a phone has its own application for it, a computer gets a window

let stream = null;
async function takePhoto() {
  if (matchMedia("(pointer: coarse)").matches || !navigator.mediaDevices) return $("from-camera").click();
  const box = $("camera");
  const video = el("video", { autoplay: true, muted: true, playsInline: true });
  const status = el("p", { role: "status" }, say("camera_starts"));
  const shoot = button(say("camera_shoot"), () => {
    if (!video.videoWidth) return (status.textContent = say("camera_wait"));
    const canvas = el("canvas", { width: video.videoWidth, height: video.videoHeight });
    canvas.getContext("2d").drawImage(video, 0, 0);
    canvas.toBlob((blob) => {
      box.close();
      take([new File([blob], "camera.jpg", { type: "image/jpeg" })]);
    }, "image/jpeg", 0.92);
  }, "button.first", { id: "shoot" });
  box.replaceChildren(el("form", { method: "dialog" }, el("h2", { id: "camera-title" }, say("camera")), video, status,
    el("div.actions", null, shoot, button(say("close"), () => box.close()))));
  box.onclose = () => stream?.getTracks().forEach((track) => track.stop());
  box.showModal();
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    if (!box.open) return box.onclose();
    video.srcObject = stream;
    video.onloadeddata = () => { status.textContent = say("camera_ready"); };
  } catch (error) {
    status.textContent = say(error.name === "NotAllowedError" ? "camera_refused" : "camera_none");
    shoot.remove();
  }
}

async function dropped(items, files) {
  const entries = [...items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return take(files);
  const found = [];
  async function walk(entry) {
    if (entry.isFile) {
      const file = await new Promise((done, fail) => { entry.file(done, fail); });
      found.push(Object.assign(file, { place: entry.fullPath.slice(1) }));
      return;
    }
    const reader = entry.createReader();
    for (let some; (some = await new Promise((done, fail) => { reader.readEntries(done, fail); })).length;) {
      for (const one of some) if (!one.name.startsWith(".")) await walk(one);
    }
  }
  for (const entry of entries) await walk(entry);
  take(found.sort((a, b) => pathOf(a).localeCompare(pathOf(b))), { folder: true });
}

function listen() {
  for (const [id, more] of [["from-camera", {}], ["from-files", {}], ["from-folder", { folder: true }]]) {
    $(id).onchange = () => {
      const files = [...$(id).files];
      $(id).value = ""; // the same picture may be chosen again
      take(files, { ...more, append: id === "from-files" && state.items.length > 1 && !state.current });
    };
  }
  addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files || [])];
    if (files.length) take(files);
  });
  addEventListener("dragover", (event) => {
    event.preventDefault();
    $("drop").textContent = say("drop_now");
    $("drop").hidden = false;
  });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) $("drop").hidden = true; });
  addEventListener("drop", (event) => {
    event.preventDefault();
    $("drop").hidden = true;
    dropped(event.dataTransfer.items, event.dataTransfer.files);
  });
  $("home").onclick = (event) => {
    event.preventDefault();
    state.items = [];
    open(null);
  };
  addEventListener("hashchange", () => { render(); scrollTo(0, 0); $("main").focus(); });
}

listen();
if (location.protocol === "file:") state.failed = "file_page";
render();
if (!state.failed) {
  backend.start((progress) => {
    if (progress === state.progress) return;
    const drawn = state.progress !== null && $("loading");
    state.progress = progress;
    if (!drawn) return later();
    drawn.textContent = say("loading", { percent: progress });
    drawn.parentElement.querySelector("progress").value = progress;
  }, (key) => { state.note = key; later(); }).then((offline) => {
    state.progress = null;
    state.offline = Boolean(offline);
    later();
  }, (error) => {
    console.error(error);
    state.failed = "load_failed";
    later();
  });
}
