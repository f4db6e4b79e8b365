"""The application: a page that names the motif of a picture, and an API that does the same.

    make app                             # or: python -m batik_utils app
    >>> from batik_utils.app.server import server as app
    >>> app.serve(Predictor.load(), port=7860)   # in Colab: share=True

Gradio draws the page. Everything that comes in goes through `predict.Predictor`; Gradio's own
decoding of pictures is bypassed, so that only the project's limits and formats count. Nothing is
fetched from other servers when it starts, and uploads are deleted. Introduced in notebook 05.
"""

import html
import logging
import math
import shutil
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batik_utils.app import occlusion, tables, texts
from batik_utils.app.predict import Prediction, Predictor
from batik_utils.errors import BatikError
from batik_utils.images import cloth as synthetic
from batik_utils.images.files import ImageError

if TYPE_CHECKING:
    import gradio

#: Oldest Gradio that has what `serve` asks of it.
GRADIO = (6, 31)
#: Uploaded files may have this many megabytes.
MAX_MEGABYTES = 20
#: Pictures that the page takes at once; the command line takes any number.
MAX_FILES = 200
#: Answers computed at the same time, and requests that may wait; more are told to come again.
CONCURRENCY, QUEUE = 2, 64
#: Visitors whose last answers are remembered, about 40 kB each, so that memory stays bounded.
SESSIONS = 1000
#: Uploads are looked for every minute and deleted at this age (s).
CHECK_EVERY, DELETE_AFTER = 60, 540
#: Gradio looks for them only when the server stops: its own schedule ends for good when an upload
#: comes while it looks (gradio 6.31, route_utils.delete_files_on_schedule).
_AT_THE_END = 10 * 365 * 86400
#: Cloth drawn for visitors without a picture: motif and seed.
EXAMPLES = (
    ("betawi", 2),
    ("betawi", 5),
    ("sidoluhur", 4),
    ("sidoluhur", 0),
    ("tambal", 1),
    ("tambal", 6),
)

_log = logging.getLogger(__name__)

_CSS = """
.gradio-container { max-width: 1080px !important; margin: 0 auto !important; }
#answer { min-height: 11rem; }
.answer h2 { margin: 0 0 .3rem; font-size: 1.6rem; line-height: 1.2; }
.answer p { margin: .3rem 0; }
.answer .quiet { color: var(--neutral-600); }
.dark .answer .quiet { color: var(--neutral-300); }
.answer .sources { font-size: .85rem; margin-top: .8rem; }
.answer .sources a { color: inherit; text-decoration: underline; }
@media (max-width: 480px) {
  .gradio-container main { padding: .6rem !important; }
  #language { min-width: 100% !important; }
  .tab-container button { padding-inline: .5rem !important; font-size: .85rem; }
}
.scroll { overflow-x: auto; }
#table table.answers { border-collapse: collapse; width: 100%; border-width: 0 !important; }
#table table.answers th, #table table.answers td { text-align: left; font-weight: inherit;
  padding: .4rem .6rem; vertical-align: top; border-width: 0 0 1px !important;
  border-bottom-color: var(--border-color-primary) !important; }
#table table.answers thead th { font-weight: 600; }
#table table.answers tbody th { overflow-wrap: anywhere; min-width: 8rem; }
.answer dl { margin: .8rem 0 0; }
.answer dt { font-weight: 600; margin-top: .5rem; }
.answer dd { margin: 0; }
.bars { list-style: none; margin: .8rem 0; padding: 0; }
.bars li { margin: .45rem 0; }
.bars .words { display: flex; justify-content: space-between; }
.bars .track { height: .6rem; border-radius: .3rem; background: var(--border-color-primary); }
.bars .bar { height: 100%; border-radius: .3rem; background: var(--color-accent); }
.none .bar, .unsure li:not(:first-child) .bar { background: var(--neutral-400); }
.answer.refused, .answer.none, .answer.unsure {
  border-left: .3rem solid var(--neutral-400); padding-left: .8rem; }
.answer.sure { border-left: .3rem solid var(--color-accent); padding-left: .8rem; }
.tab-container button[aria-selected=true] { color: var(--primary-600) !important; }
.dark .tab-container button[aria-selected=true] { color: var(--primary-300) !important; }
.dark #files a { color: var(--primary-300) !important; }
footer button { color: var(--neutral-600) !important; }
.dark footer button { color: var(--neutral-300) !important; }
:focus-visible { outline: 3px solid var(--color-accent) !important; outline-offset: 2px; }
.visually-hidden { position: absolute; width: 1px; height: 1px; overflow: hidden;
  clip-path: inset(50%); white-space: nowrap; }
"""
# a screen reader pronounces by the page's language
_SET_LANGUAGE = (
    "(code, ...rest) => { document.documentElement.lang = code; return [code, ...rest]; }"
)
# Gradio's example buttons hold a picture without a name, which a screen reader cannot tell apart,
# and the button that adds files to a list is named by a key of its own texts
_NAME_BUTTONS = """() => {
  const name = () => {
    const indonesian = document.documentElement.lang === "id";
    const say = (button, words) => { if (button.ariaLabel !== words) button.ariaLabel = words; };
    document.querySelectorAll("#examples button").forEach(
      (button, k) => say(button, (indonesian ? "Contoh " : "Example ") + (k + 1)));
    document.querySelectorAll("#files button[title^=common]").forEach((button) => {
      say(button, indonesian ? "Tambah berkas" : "Add files");
      button.title = button.ariaLabel;
    });
  };
  new MutationObserver(name).observe(document.documentElement,
    {subtree: true, childList: true, attributes: true, attributeFilter: ["lang"]});
  name();
}"""


def answer_html(answer: Prediction | None, language: str) -> str:
    """Return the answer as a piece of a page, with bars that can also be read aloud.

    Args:
        answer: None while there is no picture.
        language: a key of ``texts.LANGUAGES``.
    """
    if answer is None:
        return _section("waiting", f'<p class="quiet">{texts.say(language, "waiting")}</p>')
    say = {key: texts.say(language, key) for key in ("refused", "none", "probabilities")}
    if answer.verdict == "refused":
        reason = texts.say(language, f"kind_{answer.kind}")
        return _section("refused", f"<h2>{say['refused']}</h2><p>{html.escape(reason)}</p>")
    ranked = sorted(answer.probabilities.items(), key=lambda item: -item[1])
    bars = "".join(_bar(texts.motif_name(language, name), share) for name, share in ranked)
    bars = f'<ul class="bars" aria-label="{say["probabilities"]}">{bars}</ul>'
    if answer.verdict == "none":
        note = f"<p>{texts.say(language, 'none_note')}</p>"
        return _section("none", f"<h2>{say['none']}</h2>{note}{bars}")
    name = texts.motif_name(language, answer.motif)
    head = f"<h2>{texts.say(language, answer.verdict, motif=name)}</h2>"
    if answer.verdict == "unsure":
        return _section(
            "unsure", f"{head}<p>{texts.say(language, 'unsure_note')}</p>{bars}", answer, language
        )
    right = min(99, round(100 * answer.probability))
    note = texts.say(language, "sure_note", hundred=right)
    return _section("sure", f'{head}{bars}<p class="quiet">{note}</p>', answer, language)


def table_html(answers: Sequence[Prediction], language: str) -> str:
    """Return a table with one line for each answer, names of files made harmless."""
    heads = "".join(f'<th scope="col">{head}</th>' for head in texts.headers(language))
    lines = []
    for answer in answers:
        cells = (
            texts.say(language, f"verdict_{answer.verdict}"),
            texts.motif_name(language, answer.motif) if answer.motif else "",
            texts.percent(answer.probability) if answer.motif else "",
            texts.remark(language, answer),
        )
        words = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        name = html.escape(Path(answer.name).name)
        lines.append(f'<tr class="{answer.verdict}"><th scope="row">{name}</th>{words}</tr>')
    title = texts.say(language, "table")
    return (
        # a box that scrolls sideways must be reachable by keyboard
        f'<div class="scroll" tabindex="0" role="region" aria-label="{title}">'
        f'<table class="answers"><caption class="visually-hidden">{title}</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def summary(answers: Sequence[Prediction], language: str, classes: Sequence[str]) -> str:
    """Return one sentence about many answers."""
    motifs = Counter(answer.motif for answer in answers)
    verdicts = Counter(answer.verdict for answer in answers)
    named = ", ".join(f"{texts.motif_name(language, name)} {motifs[name]}" for name in classes)
    return texts.say(
        language,
        "summary",
        count=len(answers),
        motifs=named,
        none=verdicts["none"],
        refused=verdicts["refused"],
    )


def as_json(answer: Prediction) -> dict[str, Any]:
    """Return an answer as the API gives it."""
    refused = answer.verdict == "refused"
    return {
        "motif": answer.motif,
        "verdict": answer.verdict,
        "probabilities": {name: round(p, 6) for name, p in answer.probabilities.items()},
        "familiarity": None if refused else round(answer.familiarity, 6),
        "reason": answer.reason,
    }


def build(predictor: Predictor) -> "gradio.Blocks":
    """Build the page around a model.

    Args:
        predictor: answers; it is shared by all visitors.

    Returns:
        The page, to be launched with `serve`.
    """
    import gradio as gr

    start = "en"
    # goes when the program ends; Gradio works on copies of its own
    scratch = tempfile.TemporaryDirectory(prefix="batik-app-")
    room = Path(scratch.name)
    card = predictor.folder / "MODEL_CARD.md"
    card_text = card.read_text(encoding="utf-8") if card.is_file() else ""
    with gr.Blocks(
        title=texts.say(start, "title"),
        analytics_enabled=False,
        delete_cache=(_AT_THE_END, DELETE_AFTER),
    ) as page:
        last, largest, many = gr.State(None), gr.State(None), gr.State(None)
        with gr.Row(equal_height=True):
            head = gr.Markdown(_head(start), elem_id="head")
            language = gr.Radio(
                [(name, code) for code, name in texts.LANGUAGES.items()],
                value=start,
                label=texts.say(start, "language"),
                elem_id="language",
                scale=0,
                min_width=330,
            )
        with gr.Tab(texts.say(start, "one"), elem_id="tab-one") as tab_one, gr.Row():
            with gr.Column():
                picture = gr.Image(
                    label=texts.say(start, "picture"),
                    placeholder=texts.say(start, "placeholder"),
                    sources=["upload", "clipboard", "webcam"],
                    type="filepath",
                    height=340,
                    buttons=["fullscreen"],
                    elem_id="picture",
                )
                drawn = _draw_examples(room)
                # not gr.Examples: it resets the picture's label to the first language
                examples = gr.Dataset(
                    components=[gr.Image(render=False)],
                    samples=[[str(path)] for path in drawn],
                    type="index",
                    label=texts.say(start, "examples"),
                    elem_id="examples",
                )
            with gr.Column():
                answer = gr.HTML(
                    answer_html(None, start),
                    label=texts.say(start, "result"),
                    elem_id="answer",
                )
                why = gr.Button(texts.say(start, "why"), interactive=False, elem_id="why")
                heat = gr.Image(
                    label=texts.say(start, "heat"),
                    format="png",
                    interactive=False,
                    visible=False,
                    buttons=["download", "fullscreen"],
                    elem_id="heat",
                    alt_text=texts.say(start, "heat"),
                )
                heat_note = gr.Markdown(elem_id="heat-note")
        with gr.Tab(texts.say(start, "many"), elem_id="tab-many") as tab_many:
            files = gr.File(
                file_count="multiple",
                label=texts.say(start, "files"),
                elem_id="files",
                height=200,
            )
            note = gr.Markdown(_files_note(start))
            go = gr.Button(texts.say(start, "go"), variant="primary", elem_id="go")
            line = gr.Markdown(elem_id="summary")
            answers = gr.HTML(elem_id="table")
            csv = gr.DownloadButton(texts.say(start, "csv"), visible=False, elem_id="csv")
        with gr.Tab(texts.say(start, "about"), elem_id="tab-about") as tab_about:
            about = gr.Markdown(_about(start))
            with gr.Accordion(
                texts.say(start, "card"), open=False, visible=bool(card_text)
            ) as card_box:
                gr.Markdown(card_text)

        def look(upload: dict | None, code: str) -> tuple:
            try:
                path = _uploaded(upload)
                found = predictor.predict([path])[0] if path else None
            except ImageError as error:
                found = Prediction("", None, "refused", {}, math.nan, f"{error}.", error.kind)
            return (
                found,
                answer_html(found, code),
                gr.update(interactive=found is not None and bool(found.probabilities)),
                gr.update(value=None, visible=False),
                "",
                None,
            )

        def explain(upload: dict | None, code: str) -> tuple:
            try:
                path = _uploaded(upload)
                opened = predictor.open(path) if path else None
            except ImageError:
                opened = None
            if opened is None:
                raise gr.Error(texts.say(code, "heat_first"), title="", print_exception=False)
            found = predictor.predict([opened])[0]
            motif = max(found.probabilities, key=found.probabilities.__getitem__)
            drops = occlusion.heat_map(predictor, opened, motif)
            shown = occlusion.overlay(opened, drops, predictor.framing)
            drop = float(drops.max())
            words = _heat_note(code, found, drop)
            return gr.update(value=shown, visible=True, alt_text=words), words, drop

        def look_at_many(paths: list[str] | None, code: str, progress=gr.Progress()) -> tuple:  # noqa: B008  Gradio's way
            paths = paths or []
            if not paths:
                raise gr.Error(texts.say(code, "nothing"), title="", print_exception=False)
            if len(paths) > MAX_FILES:
                words = texts.say(code, "too_many", found=len(paths), count=MAX_FILES)
                raise gr.Error(words, title="", print_exception=False)
            stream = predictor.stream(paths, workers=2)
            found = []
            for number, one in enumerate(stream, 1):
                found.append(one)
                progress((number, len(paths)), desc=texts.say(code, "table"))
            # Gradio copies it when this returns, and deletes its copy as it does uploads
            table = _short_lived(room) / "batik-motifs.csv"
            for _ in tables.write_csv(found, predictor.classes, table):
                pass
            return (
                found,
                summary(found, code, predictor.classes),
                table_html(found, code),
                gr.update(value=str(table), visible=True),
            )

        def switch(
            code: str, found: Prediction | None, drop: float | None, list_found: list | None
        ) -> list:
            if code not in texts.LANGUAGES:
                raise gr.Error("Unknown language", title="", print_exception=False)

            def words(key: str) -> str:
                return texts.say(code, key)

            return [
                _head(code),
                gr.update(label=words("language")),
                gr.update(label=words("one")),
                gr.update(label=words("many")),
                gr.update(label=words("about")),
                gr.update(label=words("picture"), placeholder=words("placeholder")),
                gr.update(label=words("examples")),
                answer_html(found, code),
                gr.update(value=words("why")),
                gr.update(label=words("heat")),
                _heat_note(code, found, drop),
                gr.update(label=words("files")),
                _files_note(code),
                gr.update(value=words("go")),
                summary(list_found, code, predictor.classes) if list_found else "",
                table_html(list_found, code) if list_found else "",
                gr.update(label=words("csv")),
                _about(code),
                gr.update(label=words("card")),
            ]

        def visitors_language(request: gr.Request) -> str:
            wanted = request.headers.get("accept-language", "")
            return "id" if wanted.lower().startswith(("id", "jv", "su")) else "en"

        def classify(file: str) -> dict:
            """Name the motif of one picture.

            Returns motif (null for none of these), verdict (sure, unsure, none, refused),
            calibrated probabilities, familiarity, and a sentence where it is not sure.
            """
            return as_json(predictor.predict([file])[0])

        quiet = {"api_visibility": "private", "show_progress": "minimal"}
        # people and programs share the cores
        one_picture = {"concurrency_limit": CONCURRENCY, "concurrency_id": "one picture"}

        def take(number: int) -> str:
            return str(drawn[number])

        examples.click(take, examples, picture, queue=False, **quiet)
        picture.change(
            _guarded(look, gr),
            [picture, language],
            [last, answer, why, heat, heat_note, largest],
            preprocess=False,
            **one_picture,
            **quiet,
        )
        why.click(
            _guarded(explain, gr),
            [picture, language],
            [heat, heat_note, largest],
            preprocess=False,
            concurrency_limit=1,
            api_visibility="private",
        )
        go.click(
            _guarded(look_at_many, gr),
            [files, language],
            [many, line, answers, csv],
            # one at a time: a long list must leave a core to those with one picture
            concurrency_limit=1,
            api_visibility="private",
        )
        everything = [
            *(head, language, tab_one, tab_many, tab_about, picture, examples, answer, why),
            *(heat, heat_note, files, note, go, line, answers, csv, about, card_box),
        ]
        # a progress bar would cover the choice of language
        hidden = {**quiet, "show_progress": "hidden"}
        language.change(
            _guarded(switch, gr),
            [language, last, largest, many],
            everything,
            js=_SET_LANGUAGE,
            queue=False,
            **hidden,
        )
        page.load(visitors_language, None, language, queue=False, **hidden)
        # for programs: no page element, only a name in the API
        file, found = gr.File(visible=False), gr.JSON(visible=False)
        gr.Button(visible=False).click(
            _guarded(classify, gr),
            file,
            found,
            api_name="classify",
            **one_picture,
        )
        page.scratch = scratch
    page.queue(max_size=QUEUE, default_concurrency_limit=CONCURRENCY)
    return page


def serve(
    predictor: Predictor,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    share: bool = False,
    wait: bool = True,
) -> str:
    """Start the application.

    Args:
        predictor: answers.
        host: address to listen on; ``0.0.0.0`` for all of this machine's.
        port: 0 takes a free one.
        share: also make a public link through Gradio's server, for 72 hours; Colab needs it. This
            is the only thing that leaves the machine.
        wait: return only when the server is stopped.

    Returns:
        The address of the page.

    Raises:
        BatikError: the port is taken, or Gradio is too old.
    """
    import gradio as gr
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    def health(request: object) -> JSONResponse:
        return JSONResponse({"status": "ok", "model": predictor.folder.name})

    found = tuple(int(part) for part in gr.__version__.split(".")[:2])
    if found < GRADIO:
        # Colab brings its own
        raise BatikError(
            f"Gradio {gr.__version__} is too old: pip install --upgrade "
            f"'gradio>={GRADIO[0]}.{GRADIO[1]}', then restart."
        )
    page = build(predictor)
    try:
        _, address, public = page.launch(
            server_name=host,
            server_port=port or _free_port(host),
            share=share,
            prevent_thread_lock=True,
            quiet=True,
            show_error=False,
            max_file_size=MAX_MEGABYTES * 1_000_000,
            max_threads=16,
            state_session_capacity=SESSIONS,
            footer_links=["api"],
            run_history=False,
            ssr_mode=False,
            theme=gr.themes.Default(
                primary_hue="indigo",
                neutral_hue="stone",
                font=["system-ui", "sans-serif"],
                font_mono=["ui-monospace", "monospace"],
            ),
            css=_CSS,
            js=_NAME_BUTTONS,
            app_kwargs={"routes": [Route("/health", health)]},
        )
    except OSError as error:
        raise BatikError(
            f"Port {port} on {host} cannot be used ({error}): choose another with --port, or 0."
        ) from error
    threading.Thread(target=_delete_uploads, args=(page,), daemon=True).start()
    _log.info("The application answers at %s", public or address)
    if wait:
        # "docker stop" and "kill" end it as Ctrl+C does: Gradio then deletes what was uploaded
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        page.block_thread()
    return public or address


def _delete_uploads(page: "gradio.Blocks") -> None:
    """Delete what visitors left, every `CHECK_EVERY` seconds while the page is served."""
    while page.is_running:
        time.sleep(CHECK_EVERY)
        _sweep(page)


def _sweep(page: "gradio.Blocks", tries: int = 20) -> None:
    """Delete uploads, heat maps and tables that are older than `DELETE_AFTER` seconds.

    Args:
        page: whose files.
        tries: Gradio walks through a set that grows with each upload, and gives up when it does.
    """
    from gradio.route_utils import delete_files_created_by_app

    for _ in range(tries):
        try:
            delete_files_created_by_app(page, DELETE_AFTER)
            return
        except (RuntimeError, OSError) as error:
            reason = error
    _log.warning("Old uploads stay for another %d s: %s.", CHECK_EVERY, reason)


def _section(verdict: str, inner: str, answer: Prediction | None = None, language: str = "") -> str:
    if answer is not None and answer.motif in texts.MOTIFS[language]:
        _, *facts = texts.MOTIFS[language][answer.motif]
        named = zip(("origin", "signs", "meaning"), facts, strict=True)
        story = "".join(f"<dt>{texts.say(language, k)}</dt><dd>{v}</dd>" for k, v in named)
        inner += f"<dl>{story}</dl>{texts.sources_html(language, answer.motif)}"
    return f'<section class="answer {verdict}" role="status" aria-live="polite">{inner}</section>'


def _bar(name: str, share: float) -> str:
    width = f"{100 * share:.1f}%"
    return (
        f'<li><div class="words"><span>{html.escape(name)}</span>'
        f"<span>{html.escape(texts.percent(share))}</span></div>"
        f'<div class="track" aria-hidden="true"><div class="bar" style="width:{width}"></div></div>'
        "</li>"
    )


def _head(language: str) -> str:
    return f"# {texts.say(language, 'title')}\n{texts.say(language, 'intro')}"


def _heat_note(language: str, answer: Prediction | None, drop: float | None) -> str:
    if answer is None or drop is None:
        return ""
    if drop < 0.005:
        return texts.say(language, "heat_none")
    motif = max(answer.probabilities, key=answer.probabilities.__getitem__)
    name = texts.motif_name(language, motif)
    return texts.say(language, "heat_note", motif=name, drop=f"{100 * drop:.0f} %")


def _files_note(language: str) -> str:
    return texts.say(language, "files_note", count=MAX_FILES, mb=MAX_MEGABYTES)


def _about(language: str) -> str:
    minutes = round((CHECK_EVERY + DELETE_AFTER) / 60)
    return texts.say(language, "about_text", minutes=minutes)


def _uploaded(payload: Any) -> str | None:
    """Return the path of an uploaded picture, None where there is none.

    The events of the picture run with ``preprocess=False``, because Gradio would open the file
    itself, with every format that Pillow has. Then its check of the path is ours to do.

    Raises:
        ImageError: a path that is not an upload.
    """
    from gradio.utils import get_upload_folder

    if payload is None:
        return None
    path = Path(str(payload.get("path", "")) if isinstance(payload, dict) else "").resolve()
    if not path.is_relative_to(Path(get_upload_folder()).resolve()) or not path.is_file():
        raise ImageError("the picture was not uploaded, or deleted since", "unreadable")
    return str(path)


def _draw_examples(folder: Path) -> list[Path]:
    paths = [folder / f"{motif}-{seed}.png" for motif, seed in EXAMPLES]
    for path, (motif, seed) in zip(paths, EXAMPLES, strict=True):
        synthetic.draw(motif, seed).save(path)
    return paths


def _short_lived(room: Path) -> Path:
    """Return a new folder that goes after `CHECK_EVERY` seconds, whatever the visitor does."""
    folder = tempfile.mkdtemp(dir=room)
    timer = threading.Timer(CHECK_EVERY, shutil.rmtree, (folder,), {"ignore_errors": True})
    timer.daemon = True
    timer.start()
    return Path(folder)


def _guarded(function: Callable, gr: Any) -> Callable:
    """Wrap what a visitor sets off: whatever goes wrong, a sentence comes back."""
    from functools import wraps

    @wraps(function)
    def guarded(*given: Any) -> Any:
        try:
            return function(*given)
        except gr.Error:
            raise
        except (BatikError, ImageError) as error:
            raise gr.Error(str(error), title="", print_exception=False) from None
        # the visitor must not see a traceback, whatever it is; the log has it
        except Exception:  # noqa: BLE001
            _log.exception("A request failed")
            language = next((g for g in given if isinstance(g, str) and g in texts.LANGUAGES), "en")
            words = texts.say(language, "failed")
            raise gr.Error(words, title="", print_exception=False) from None

    return guarded


def _free_port(host: str) -> int:
    import socket

    with socket.socket() as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]
