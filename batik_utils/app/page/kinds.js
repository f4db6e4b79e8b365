// What a file is, by its first bytes: a word of `refused` in the texts, or "" for what is opened.
// The package's own reasons are in images/files.py; these have a remedy in the visitor's language.
"use strict";

const KINDS = [
  ["", /^(\xff\xd8\xff|\x89PNG|GIF8|BM|RIFF....WEBP)/s],
  ["heic", /^....ftyp(hei|hev|mif1|msf1)/s],
  ["avif", /^....ftypavi/s],
  ["raw", /^(....ftypcrx|FUJIFILM|IIU\0|IIR[OS])/s],
  ["video", /^(....(ftyp|moov|mdat)|RIFF....AVI |\x1aE\xdf\xa3)/s],
  ["jpeg2000", /^(....jP {2}|\xff\x4f\xff\x51)/s],
  ["psd", /^8BPS/],
  ["tiff", /^(II\*\0|MM\0\*)/],
  ["pdf", /^%PDF/i],
  ["html", /^\s*<(!doctype html|html)/i],
  ["svg", /^\s*<(\?xml|svg)/i],
];

async function kindOf(file) {
  const head = String.fromCharCode(...new Uint8Array(await file.slice(0, 64).arrayBuffer()));
  const found = KINDS.find(([, start]) => start.test(head));
  return found ? found[0] : "format";
}
