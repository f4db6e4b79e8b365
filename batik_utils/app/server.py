"""The application: a page that names the motif of a picture, and an API that does the same.

>>> server.serve(Predictor.load(), port=7860)   # in Colab: share=True

Gradio takes uploads, queues and answers; nothing is fetched from other servers. Notebook 05.
"""

import atexit
import contextlib
import functools
import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from filelock import FileLock
from gradio_client import handle_file
from starlette import responses as http
from starlette.routing import Route

from batik_utils.app import model_folder, page
from batik_utils.app.predict import Predictor
from batik_utils.errors import BatikError, locked
from batik_utils.images.files import ImageError

#: Uploaded files may have this many megabytes.
MAX_MEGABYTES = 20
#: Answers computed at the same time, and requests that may wait; more are told to come again.
CONCURRENCY, QUEUE = 2, 64
#: Uploads are looked for every minute and deleted at this age (s).
CHECK_EVERY, DELETE_AFTER = 60, 540
ROOM = "batik-app-"  # begins the name of the temporary folder of uploads
_log = logging.getLogger(__name__)


def serve(
    predictor: Predictor,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    share: bool = False,
    gallery: Path | str = "",
    root_path: str = "",
    wait: bool = True,
) -> str:
    """Start the application and return its address; BatikError: port taken, gallery empty.

    Port 0 takes a free one. ``share`` also makes a public link through Gradio's server, as Colab
    needs. ``gallery`` is a folder of photographs, ``root_path`` the path behind a proxy.
    """
    photographs = page.gallery(gallery, predictor.classes)
    root_path = f"/{root_path.strip('/')}".rstrip("/")
    # Gradio asks its own server whether it is there: not through a proxy
    proxies = {name: os.environ.pop(name) for name in [*os.environ] if "_proxy" in name.lower()}
    room = make_room()
    # the folder "gradio" in the temporary directory may be another user's; read at Gradio's import
    os.environ["GRADIO_TEMP_DIR"] = str(room)
    blocks = _blocks(predictor, room)
    try:
        _, address, public = blocks.launch(
            server_name=host,
            server_port=port or _free_port(host),
            share=share,
            prevent_thread_lock=True,
            quiet=True,
            show_error=False,
            max_file_size=MAX_MEGABYTES * 1_000_000,
            max_threads=16,
            ssr_mode=False,
            run_history=False,
            root_path=root_path or None,
            app_kwargs={"routes": _routes(predictor, photographs, root_path)},
        )
    except OSError as error:
        raise BatikError(
            f"Port {port} on {host} cannot be used ({error}): choose another with --port, or 0."
        ) from error
    finally:
        os.environ.update(proxies)
    # the API's description shows a picture where Gradio would show dots
    motif, seeds = next(iter(page.SEEDS.items()))
    example = handle_file(f"{address}page/drawn/{motif}-{seeds[0]}.jpg")
    for function in blocks.fns.values():
        function.inputs[0].example_payload = function.inputs[0].example_value = lambda: example
    sweep(room)
    _log.info("The application answers at %s", public or address)
    if wait:
        # "docker stop" and "kill" end it as Ctrl+C does: the uploads are then deleted
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        blocks.block_thread()
    return public or address


def _blocks(predictor: Predictor, room: Path) -> Any:
    """Return what Gradio queues: the endpoints, without components of its own."""
    import gradio

    def look(picture: gradio.FileData, preview: bool = False) -> dict:
        """Answer the page, which may need a picture that the browser can show."""
        try:
            content = _uploaded(picture, room)
            found = predictor.answer("", content, details=True).as_json(details=True)
            if preview and found["verdict"] != "refused":
                found["preview"] = page.preview(content)
        # the visitor must not see a traceback, whatever it is; the log has it
        except Exception as error:  # noqa: BLE001
            words = str(error)
            if not isinstance(error, BatikError):
                _log.exception("A request failed")
                words = page.texts("en")["say"]["failed"]
            raise gradio.Error(words, title="", print_exception=False) from None
        del found["path"]  # Gradio's client takes what has a path for a file and fetches it
        return found

    def classify(picture: gradio.FileData) -> dict:
        """Name the motif of one picture.

        Returns what `predict --json --details` prints, without the path: motif (null for none),
        verdict (sure, unsure, none, refused), calibrated probabilities and more.
        """
        return look(picture)

    # people and programs share the cores
    shared = {"concurrency_limit": CONCURRENCY, "concurrency_id": "one picture"}
    with gradio.Blocks(title="Batik", analytics_enabled=False) as blocks:
        gradio.api(classify, api_name="classify", **shared)
        gradio.api(look, api_name="look", api_visibility="undocumented", **shared)
    return blocks.queue(max_size=QUEUE, default_concurrency_limit=CONCURRENCY)


def _routes(predictor: Predictor, photographs: list[dict], root_path: str) -> list[Route]:
    """Return what is served beside Gradio's own addresses, and before them."""
    data = page.content(
        predictor,
        photographs,
        max_bytes=MAX_MEGABYTES * 1_000_000,
        atOnce=CONCURRENCY,
        minutes=round((CHECK_EVERY + DELETE_AFTER) / 60),
        api=model_folder.read_json(page.HERE / "examples.json"),
    )
    start = page.render(data, "server", f"{root_path}/" if root_path else "./")
    health = {"status": "ok", "model": predictor.folder.name}
    card, pictures = predictor.folder / page.CARD, page.pictures(data, photographs)

    @functools.lru_cache(100)
    def picture(name: str) -> http.Response:
        return http.Response(pictures[name](), media_type="image/jpeg")

    made = {
        "": lambda: http.HTMLResponse(start),
        "health": lambda: http.JSONResponse(health),
        page.CARD: lambda: http.FileResponse(card, media_type="text/plain"),
        **{name: functools.partial(picture, name) for name in pictures},
    }
    for path in page.FILES.iterdir():
        # a browser asks each time whether a script changed: its address says no version
        fresh = {"Cache-Control": "no-cache"}
        made[f"page/{path.name}"] = functools.partial(http.FileResponse, path, headers=fresh)
    return [Route(f"/{name}", lambda _, make=make: make()) for name, make in made.items()]


def _uploaded(payload: Any, room: Path) -> bytes:
    """Read an upload; Gradio does not check the path that a program sends (ImageError)."""
    given = payload.get("path", "") if isinstance(payload, dict) else ""
    path = Path(str(given).replace("\0", "")).resolve()
    if not path.is_relative_to(room.resolve()) or not path.is_file() or path.name == "lock":
        raise ImageError("the picture was not uploaded, or deleted since", "unreadable")
    return path.read_bytes()


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


def make_room() -> Path:
    """Return a private folder, deleted at the end, and delete those of killed processes."""
    place = Path(tempfile.gettempdir())
    for old in place.glob(f"{ROOM}*"):
        # other users' folders cannot be locked, those in use are, and without locks none is deleted
        with contextlib.suppress(OSError, NotImplementedError):
            with FileLock(old / "lock", timeout=0):
                pass
            shutil.rmtree(old, ignore_errors=True)
    room = Path(tempfile.mkdtemp(prefix=ROOM, dir=place))
    held = contextlib.ExitStack()
    held.enter_context(locked(room / "lock"))
    atexit.register(lambda: (held.close(), shutil.rmtree(room, ignore_errors=True)))
    return room


def sweep(room: Path) -> None:
    """Delete old uploads, now and again and again while the folder is there."""
    before = time.time() - DELETE_AFTER
    for path in sorted(room.rglob("*"), reverse=True):
        with contextlib.suppress(OSError):  # gone meanwhile, or a folder that is not empty
            if path.stat().st_mtime <= before and path.name != "lock":
                path.rmdir() if path.is_dir() else path.unlink()
    if room.is_dir():
        timer = threading.Timer(CHECK_EVERY, sweep, [room])
        timer.daemon = True
        timer.start()
