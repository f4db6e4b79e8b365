"""Load on the application, on loopback: ``PYTHONPATH=. python tests/load_app.py``.

Twenty users for a minute upload a picture and wait for the answer, again and again. Prints figures,
``--csv`` adds them to a table. Exit status 1 on errors; a full queue that says so is none.
"""

import argparse
import io
import json
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import psutil

from batik_utils import checkpoints
from batik_utils.images import cloth


def answer(client: httpx.Client, url: str, content: bytes) -> dict:
    """Upload a picture and wait for the API's answer, as the page does it."""
    files = {"files": (f"{uuid.uuid4().hex}.jpg", content, "image/jpeg")}
    path = client.post(f"{url}upload", files=files).raise_for_status().json()[0]
    body = {"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}]}
    called = client.post(f"{url}call/classify", json=body).raise_for_status().json()
    text = client.get(f"{url}call/classify/{called['event_id']}").text
    return json.loads(text.rsplit("data: ", 1)[1])[0]


def measure(options: argparse.Namespace, url: str, process: psutil.Process) -> dict:
    """Let the users work and return the figures."""
    stream = io.BytesIO()
    cloth.draw("tambal", 1).resize((1600, 1200)).save(stream, "JPEG", quality=85)
    waits, errors, full, memory = [], [], [], [process.memory_info().rss / 1e6]
    others, before = psutil.getloadavg()[0], sum(process.cpu_times()[:2])
    end = time.monotonic() + options.seconds

    def user(number: int) -> None:
        chance = np.random.default_rng(number)
        with httpx.Client(timeout=60) as client:
            while time.monotonic() < end:
                time.sleep(chance.exponential(1))
                began = time.monotonic()
                try:
                    assert answer(client, url, stream.getvalue())["verdict"] != "refused"
                    waits.append(time.monotonic() - began)
                except Exception as error:  # noqa: BLE001  every failure is a figure here
                    (full if "503" in str(error) else errors).append(repr(error))

    with ThreadPoolExecutor(options.users) as pool:
        pool.map(user, range(options.users))
        while time.monotonic() < end:
            time.sleep(1)
            memory.append(process.memory_info().rss / 1e6)
    sys.stdout.write("".join(f"{error}\n" for error in errors[:5]))
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    row = {"started": now, "git": checkpoints.git_commit(), "model": options.model}
    row |= {"users": options.users, "seconds": options.seconds, "pause": 1.0}
    values = {
        "answers": len(waits),
        "errors": len(errors),
        "queue_full": len(full),
        "median_s": np.median(waits),
        "p95_s": np.quantile(waits, 0.95),
        "longest_s": max(waits),
        "processor_ms": 1000 * (sum(process.cpu_times()[:2]) - before) / len(waits),
        "memory_start_mb": memory[0],
        "memory_middle_mb": memory[len(memory) // 2],
        "memory_end_mb": memory[-1],
        "memory_most_mb": max(memory),
        "cores": psutil.cpu_count(),
        "load_before": others,
    }
    return row | {name: round(value, 3) for name, value in values.items()}


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--model", default="results/kaggle/model", help="model folder")
parser.add_argument("--users", type=int, default=20)
parser.add_argument("--seconds", type=int, default=60)
parser.add_argument("--csv", type=Path, help="table that gets a row more")
asked = parser.parse_args()
command = [sys.executable, "-m", "batik_utils", "app", "--port", "0", "--model", asked.model]
server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
try:
    place = next(line for line in server.stderr if "answers at" in line).split()[-1]
    row = measure(asked, f"{place}gradio_api/", psutil.Process(server.pid))
finally:
    server.terminate()
    server.wait(30)
if asked.csv:
    pd.DataFrame([row]).to_csv(asked.csv, mode="a", index=False, header=not asked.csv.is_file())
sys.stdout.write("".join(f"{key:>16}  {value}\n" for key, value in row.items()))
sys.exit(1 if row["errors"] else 0)
