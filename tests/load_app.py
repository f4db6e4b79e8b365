"""Load on the application, on loopback: ``PYTHONPATH=. python tests/load_app.py``.

Starts the application in a process of its own, lets 20 users for a minute upload a picture and wait
for the answer again and again, and ends with figures: answers, errors, median and 95th percentile
of the waiting time, the server's processor time, and its memory. Exit status 1 on errors.
"""

import argparse
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
from pathlib import Path

import httpx
import numpy as np
import psutil
import standin

from batik_utils import synthetic
from batik_utils.motifs import MOTIFS


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
    parser.add_argument("--model", default="", help="model folder (default: a stand-in)")
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument(
        "--pause", type=float, default=1.0, help="mean seconds between two pictures"
    )
    options = parser.parse_args()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as scratch:
        model = options.model or str(standin.write(Path(scratch) / "model"))
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
                except Exception as error:  # noqa: BLE001  every failure is a figure here
                    errors.append(repr(error))

    users = [threading.Thread(target=user, args=(number,)) for number in range(options.users)]
    for one in users:
        one.start()
    while any(one.is_alive() for one in users):
        time.sleep(1)
        memory.append(process.memory_info().rss / 1e6)
    half = memory[len(memory) // 2]
    busy = (sum(process.cpu_times()[:2]) - before) / max(1, len(waits))
    sys.stdout.write(
        f"{options.users} users, {options.seconds} s: {len(waits)} answers, {len(errors)} errors; "
        f"waiting time median {np.median(waits):.2f} s, "
        f"95 % under {np.quantile(waits, 0.95):.2f} s, longest {max(waits):.2f} s; "
        f"server {1000 * busy:.0f} ms of processor an answer, "
        f"memory {memory[0]:.0f} MB at the start, {half:.0f} MB "
        f"in the middle, {memory[-1]:.0f} MB at the end, {max(memory):.0f} MB at most\n"
    )
    for error in errors[:5]:
        sys.stdout.write(f"{error}\n")
    return 1 if errors or not waits else 0


if __name__ == "__main__":
    sys.exit(main())
