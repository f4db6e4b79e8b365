// Answers from a worker in this browser: the model is fetched once, counted in bytes, and kept.
"use strict";

const backend = {
  kind: "browser",
  waiting: new Map(),
  number: 0,
  start(progress) {
    this.worker = new Worker("page/worker.js");
    this.stored = new Promise((done) => { this.keep = done; });
    this.ready = new Promise((done, fail) => {
      this.worker.onmessage = ({ data: message }) => {
        if (message.progress !== undefined) progress(message.progress);
        else if (message.ready) done();
        else if (message.stored) this.keep();
        else if (message.failed) fail(new Error(message.failed));
        else {
          const { resolve, reject } = this.waiting.get(message.id);
          this.waiting.delete(message.id);
          if (message.error) reject(new Error(message.error));
          else resolve(message.answer);
        }
      };
      this.worker.onerror = (event) => fail(new Error(event.message));
    });
    progress(0);
    this.worker.postMessage({ start: { model: data.model, limits: data.limits, classes: data.classes } });
    return this.ready.then(() => this.install());
  },
  // a service worker keeps the page for use without internet; the browser may not have one
  async install() {
    if (!navigator.serviceWorker || !isSecureContext) return false;
    await navigator.serviceWorker.register("sw.js");
    await Promise.all([navigator.serviceWorker.ready, this.stored]);
    return true;
  },
  async answer(file) {
    await this.ready;
    return new Promise((resolve, reject) => {
      const id = this.number++;
      this.waiting.set(id, { resolve, reject });
      this.worker.postMessage({ id, file });
    });
  },
};
