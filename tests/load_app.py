"""Load on the application, on loopback: ``PYTHONPATH=. python tests/load_app.py``.

Twenty users for a minute upload a picture and wait for the answer, again and again, at a server in
a process of its own. Prints answers, errors, waiting times, processor time and memory; ``--csv``
adds them to a table. Exit status 1 on errors; a full queue that says so is counted by itself.
"""

import argparse
import csv
import io
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from datetime import datetime, timezone
from pathlib import Path

import httpx
import numpy as np
import psutil
import standin

from batik_utils import checkpoints
from batik_utils.images import cloth
from batik_utils.images.motifs import MOTIFS


def one_answer(client: httpx.Client, url: str, content: bytes) -> dict:
    """Upload a picture and wait for the API's answer, as the page does it."""
    files = {"files": (f"{uuid.uuid4().hex}.jpg", content, "image/jpeg")}
    path = client.post(f"{url}/gradio_api/upload", files=files).raise_for_status().json()[0]
    body = {"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}]}
    called = client.post(f"{url}/gradio_api/call/classify", json=body).raise_for_status()
    text = client.get(f"{url}/gradio_api/call/classify/{called.json()['event_id']}").text
    return json.loads(text.rsplit("data: ", 1)[1])[0]


def pictures() -> list[bytes]:
    """Return JPEGs of phone size in kind, smaller in pixels, so that the client costs little."""
    made = [io.BytesIO() for _ in MOTIFS]
    for motif, stream in zip(MOTIFS, made, strict=True):
        cloth.draw(motif, 1).resize((1600, 1200)).save(stream, "JPEG", quality=85)
    return [stream.getvalue() for stream in made]


def measure(options: argparse.Namespace, url: str, process: psutil.Process) -> dict:
    """Let the users work; return the figures, with the errors as text."""
    contents, waits, errors, full = pictures(), [], [], []
    with httpx.Client(timeout=60) as client:
        one_answer(client, url, contents[0])
    memory, others = [process.memory_info().rss / 1e6], psutil.getloadavg()[0]
    before, end = sum(process.cpu_times()[:2]), time.monotonic() + options.seconds

    def user(number: int) -> None:
        chance = random.Random(number)
        with httpx.Client(timeout=60) as client:
            while time.monotonic() < end:
                time.sleep(chance.expovariate(1 / options.pause))
                began = time.monotonic()
                try:
                    found = one_answer(client, url, chance.choice(contents))
                    assert found["verdict"] != "refused", found
                    waits.append(time.monotonic() - began)
                except httpx.HTTPStatusError as error:
                    (full if error.response.status_code == 503 else errors).append(repr(error))
                except Exception as error:  # noqa: BLE001  every failure is a figure here
                    errors.append(repr(error))

    users = [threading.Thread(target=user, args=(number,)) for number in range(options.users)]
    for one in users:
        one.start()
    while any(one.is_alive() for one in users):
        time.sleep(1)
        memory.append(process.memory_info().rss / 1e6)
    sys.stdout.write("".join(f"{error}\n" for error in errors[:5]))
    return {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "git": checkpoints.git_commit(),
        "model": options.model or "results/kaggle/model",
        **{name: getattr(options, name) for name in ("users", "seconds", "pause")},
        "answers": len(waits),
        "errors": len(errors),
        "queue_full": len(full),
        "median_s": np.median(waits) if waits else np.nan,
        "p95_s": np.quantile(waits, 0.95) if waits else np.nan,
        "longest_s": max(waits, default=np.nan),
        "processor_ms": 1000 * (sum(process.cpu_times()[:2]) - before) / max(1, len(waits)),
        "memory_start_mb": memory[0],
        "memory_middle_mb": memory[len(memory) // 2],
        "memory_end_mb": memory[-1],
        "memory_most_mb": max(memory),
        "cores": psutil.cpu_count(),
        "load_before": others,
    }


def main() -> int:
    """Run, and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="", help="model folder; 'standin' for the tests'")
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--pause", type=float, default=1.0, help="mean seconds between pictures")
    parser.add_argument("--csv", type=Path, help="table that gets a row more")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        model = options.model
        if model == "standin":
            model = str(standin.write(Path(scratch) / "model"))
        command = [sys.executable, "-m", "batik_utils", "app", "--port", "0", "--model", model]
        server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            url = next(line for line in server.stderr if "answers at" in line).split()[-1]
            row = measure(options, url.rstrip("/"), psutil.Process(server.pid))
        finally:
            server.terminate()
            server.wait(30)
    row = {key: round(x, 3) if isinstance(x, float) else x for key, x in row.items()}
    if options.csv:
        new = not options.csv.is_file()
        with options.csv.open("a", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, row)
            if new:
                writer.writeheader()
            writer.writerow(row)
    sys.stdout.write("".join(f"{key:>16}  {value}\n" for key, value in row.items()))
    return 1 if row["errors"] or not row["answers"] else 0


if __name__ == "__main__":
    sys.exit(main())
