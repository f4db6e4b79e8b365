// Answers from the server, through Gradio's API: upload, ask, wait for the event.
"use strict";

const backend = {
  kind: "server",
  note: () => {},
  async start(progress, note) {
    this.note = note;
  },
  async answer(file, preview) {
    const body = new FormData();
    body.append("files", file, file.name || "picture");
    const uploaded = await this.patient("gradio_api/upload", { method: "POST", body });
    const [path] = await uploaded.json();
    const picture = { path, orig_name: file.name, meta: { _type: "gradio.FileData" } };
    const asked = await this.patient("gradio_api/call/look", {
      method: "POST", headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ data: [picture, Boolean(preview)] }),
    });
    const { event_id: id } = await asked.json();
    const found = await (await fetch(`gradio_api/call/look/${id}`)).text();
    const last = found.trim().split("\n\n").pop();
    const answer = JSON.parse(last.slice(last.indexOf("data: ") + 6));
    if (!last.startsWith("event: complete")) throw new Error(last);
    return answer[0];
  },
  // a full queue is tried again, a little later each time
  async patient(url, options) {
    for (let wait = 500; ; wait = Math.min(5000, 1.5 * wait)) {
      const found = await fetch(url, options);
      if (found.ok) return found;
      if (found.status !== 503) throw new Error(`${url}: ${found.status}`);
      this.note("busy");
      await new Promise((done) => { setTimeout(done, wait); });
    }
  },
};
