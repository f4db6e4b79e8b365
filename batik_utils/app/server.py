"""The application: a page that names the motif of a picture, and an API that does the same.

    make app                             # or: python -m batik_utils app
    >>> server.serve(Predictor.load(), port=7860)   # in Colab: share=True

Gradio takes uploads, queues and answers; nothing is fetched from other servers. Notebook 05.
"""

import functools
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batik_utils.app import model_folder, page, rooms
from batik_utils.app.predict import Predictor
from batik_utils.app.sources import Upload
from batik_utils.errors import BatikError
from batik_utils.images.files import ImageError

if TYPE_CHECKING:
    import gradio
    from starlette.requests import Request

#: Oldest Gradio that has what `serve` asks of it.
GRADIO = (6, 31)
#: Uploaded files may have this many megabytes.
MAX_MEGABYTES = 20
#: Answers computed at the same time, and requests that may wait; more are told to come again.
CONCURRENCY, QUEUE = 2, 64
#: Uploads are looked for every minute and deleted at this age (s).
CHECK_EVERY, DELETE_AFTER = 60, 540
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
    """Start the application and return its address.

    Port 0 takes a free one. ``share`` also makes a public link through Gradio's server, for 72
    hours, which Colab needs and which is the only thing that leaves the machine. ``gallery`` is a
    folder of photographs, ``root_path`` the path behind a proxy, e.g. ``/batik``. With ``wait`` it
    returns when the server is stopped. BatikError: port taken, gallery empty, Gradio too old.
    """
    photographs = page.gallery(gallery, predictor.classes)
    root_path = f"/{root_path.strip('/')}".rstrip("/")
    # Gradio asks its own server whether it is there: not through a proxy
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1", "localhost"]))
    room = rooms.make()
    # the folder "gradio" in the temporary directory may be another user's
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
    _show_an_example(blocks, address)
    rooms.sweep(room, DELETE_AFTER, CHECK_EVERY)
    _log.info("The application answers at %s", public or address)
    if wait:
        # "docker stop" and "kill" end it as Ctrl+C does: the uploads are then deleted
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        blocks.block_thread()
    return public or address


def _blocks(predictor: Predictor, room: Path) -> "gradio.Blocks":
    """Return what Gradio queues: the endpoints, without components of its own."""
    import gradio as gr

    if tuple(map(int, gr.__version__.split(".")[:2])) < GRADIO:
        # Colab brings its own
        raise BatikError(
            f"Gradio {gr.__version__} is too old: pip install --upgrade "
            f"'gradio>={GRADIO[0]}.{GRADIO[1]}', then restart."
        )

    def answer(picture: Any, preview: bool = False) -> dict:
        try:
            upload = _uploaded(picture, room)
            found = predictor.predict([upload], details=True)[0].as_json(details=True)
            if preview and found["verdict"] != "refused":
                found["preview"] = page.preview(upload.content)
        except BatikError as error:
            raise gr.Error(str(error), title="", print_exception=False) from None
        # the visitor must not see a traceback, whatever it is; the log has it
        except Exception:  # noqa: BLE001
            _log.exception("A request failed")
            words = page.texts("en")["say"]["failed"]
            raise gr.Error(words, title="", print_exception=False) from None
        del found["path"]  # Gradio's client takes what has a path for a file and fetches it
        return found

    def classify(picture: gr.FileData) -> dict:
        """Name the motif of one picture.

        Returns motif (null for none of these), verdict (sure, unsure, none, refused), calibrated
        probabilities, familiarity, a sentence where it is not sure, level (motif, other_cloth,
        no_cloth), words (sure, probably, either) and the evidence map.
        """
        return answer(picture)

    def look(picture: gr.FileData, preview: bool = False) -> dict:
        """Answer the page, which may need a picture that the browser can show."""
        return answer(picture, preview)

    # people and programs share the cores
    shared = {"concurrency_limit": CONCURRENCY, "concurrency_id": "one picture"}
    with gr.Blocks(title="Batik", analytics_enabled=False) as blocks:
        gr.api(classify, api_name="classify", **shared)
        gr.api(look, api_name="look", api_visibility="undocumented", **shared)
    return blocks.queue(max_size=QUEUE, default_concurrency_limit=CONCURRENCY)


def _routes(predictor: Predictor, photographs: list[dict], root_path: str) -> list:
    """Return what is served beside Gradio's own addresses, and before them."""
    from starlette import responses as http
    from starlette.routing import Route

    card = predictor.folder / "MODEL_CARD.md"
    data = page.content(
        predictor,
        max_bytes=MAX_MEGABYTES * 1_000_000,
        at_once=CONCURRENCY,
        minutes=round((CHECK_EVERY + DELETE_AFTER) / 60),
        gallery=photographs,
        card="model-card" if card.is_file() else "",
        api=model_folder.read_json(page.HERE / "examples.json"),
    )
    start = page.render(data, "server", f"{root_path}/" if root_path else "./")
    files = {path.name: path for path in page.FILES.iterdir()}

    def made(make: Callable[[str], http.Response]) -> Callable:
        def route(request: "Request") -> http.Response:
            try:
                return make(request.path_params.get("name", ""))
            except (BatikError, LookupError, ValueError, OSError):
                return http.Response(status_code=404)

        return route

    @functools.lru_cache(128)
    def drawn(name: str) -> http.Response:
        return http.Response(page.drawn(name), media_type="image/jpeg")

    @functools.lru_cache(64)
    def photograph(name: str) -> http.Response:
        entry = photographs[int(name.removesuffix(".jpg"))]
        return http.Response(page.photograph(entry), media_type="image/jpeg")

    # a browser asks each time whether a script changed: its address says no version
    fresh = {"Cache-Control": "no-cache"}
    health = {"status": "ok", "model": predictor.folder.name}
    routes = {
        "/": lambda _: http.HTMLResponse(start),
        "/health": lambda _: http.JSONResponse(health),
        "/model-card": lambda _: http.PlainTextResponse(card.read_text(encoding="utf-8")),
        "/page/drawn/{name}": drawn,
        "/page/gallery/{name}": photograph,
        "/page/{name}": lambda name: http.FileResponse(files[name], headers=fresh),
    }
    return [Route(path, made(make)) for path, make in routes.items()]


def _show_an_example(blocks: "gradio.Blocks", address: str) -> None:
    """Make the API's description show a picture where Gradio would show dots."""
    from gradio_client import handle_file

    motif, seeds = next(iter(page.SEEDS.items()))
    example = handle_file(f"{address}page/drawn/{motif}-{seeds[0]}.jpg")
    for function in blocks.fns.values():
        function.inputs[0].example_payload = function.inputs[0].example_value = lambda: example


def _uploaded(payload: Any, room: Path) -> Upload:
    """Read an upload; Gradio does not check the path that a program sends (ImageError)."""
    given = payload if isinstance(payload, dict) else {}
    path = Path(str(given.get("path", "")).replace("\0", "")).resolve()
    if not path.is_relative_to(room.resolve()) or not path.is_file() or path.name == "lock":
        raise ImageError("the picture was not uploaded, or deleted since", "unreadable")
    return Upload(str(given.get("orig_name") or path.name), path.read_bytes())


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]
