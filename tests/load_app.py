"""Load on the application, on loopback: ``PYTHONPATH=. python tests/load_app.py``.

Starts the application in a process of its own, lets 20 users for a minute upload a picture and wait
for the answer again and again, and ends with figures: answers, errors, median and 95th percentile
of the waiting time, the server's processor time, and its memory. With ``--csv`` they also become a
row of a table. Exit status 1 on errors; a full queue that says so is counted by itself.
"""

import argparse
import csv
import io
import json
import random
import socket
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
from batik_utils.images import cloth as synthetic
from batik_utils.images.motifs import MOTIFS


def one_answer(client: httpx.Client, url: str, content: bytes) -> dict:
    """Upload a picture and wait for the API's answer, as gradio_client does it."""
    files = {"files": (f"{uuid.uuid4().hex}.jpg", content, "image/jpeg")}
    path = client.post(f"{url}/gradio_api/upload", files=files).raise_for_status().json()[0]
    body = {"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}]}
    called = client.post(f"{url}/gradio_api/call/classify", json=body).raise_for_status()
    event = called.json()["event_id"]
    with client.stream("GET", f"{url}/gradio_api/call/classify/{event}") as stream:
        for line in stream.iter_lines():
            if line.startswith("data: "):
                found = json.loads(line.removeprefix("data: "))
                if isinstance(found, list):
                    return found[0]
    raise RuntimeError("the stream ended without an answer")


def pictures() -> list[bytes]:
    """Return JPEGs of phone size in kind, smaller in pixels, so that the client costs little."""
    made = []
    for motif in MOTIFS:
        stream = io.BytesIO()
        synthetic.draw(motif, 1).resize((1600, 1200)).save(stream, "JPEG", quality=85)
        made.append(stream.getvalue())
    return made


def main() -> int:
    """Run, and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model", default="", help="model folder; 'standin' for the tests' (default: as the app)"
    )
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument(
        "--pause", type=float, default=1.0, help="mean seconds between two pictures"
    )
    parser.add_argument("--csv", type=Path, help="table that gets a row more")
    options = parser.parse_args()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as scratch:
        model = options.model
        if model == "standin":
            model = str(standin.write(Path(scratch) / "model"))
        server = subprocess.Popen(
            [sys.executable, "-m", "batik_utils", "app", "--port", str(port), "--model", model]
        )
        try:
            return _measure(options, url, server)
        finally:
            server.terminate()
            server.wait(30)


def _measure(options: argparse.Namespace, url: str, server: subprocess.Popen) -> int:
    for _ in range(240):
        try:
            httpx.get(f"{url}/health").raise_for_status()
            break
        except httpx.HTTPError:
            time.sleep(0.5)
    process, contents = psutil.Process(server.pid), pictures()
    with httpx.Client(timeout=60) as client:
        one_answer(client, url, contents[0])
    waits, errors, memory = [], [], [process.memory_info().rss / 1e6]
    full = []  # requests that were told to come again
    others = psutil.getloadavg()[0]
    before = sum(process.cpu_times()[:2])
    end = time.monotonic() + options.seconds

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
                    status = error.response.status_code
                    (full if status == 503 else errors).append(repr(error))
                except Exception as error:  # noqa: BLE001  every failure is a figure here
                    errors.append(repr(error))

    users = [threading.Thread(target=user, args=(number,)) for number in range(options.users)]
    for one in users:
        one.start()
    while any(one.is_alive() for one in users):
        time.sleep(1)
        memory.append(process.memory_info().rss / 1e6)
    row = {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "git": checkpoints.git_commit(),
        "model": options.model or "results/kaggle/model",
        "users": options.users,
        "seconds": options.seconds,
        "pause": options.pause,
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
    row = {key: round(x, 3) if isinstance(x, float) else x for key, x in row.items()}
    if options.csv:
        options.csv.parent.mkdir(parents=True, exist_ok=True)
        new = not options.csv.is_file()
        with options.csv.open("a", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, row)
            if new:
                writer.writeheader()
            writer.writerow(row)
    sys.stdout.write("".join(f"{key:>16}  {value}\n" for key, value in row.items()))
    for error in errors[:5]:
        sys.stdout.write(f"{error}\n")
    return 1 if errors or not waits else 0


if __name__ == "__main__":
    sys.exit(main())
