"""The Space, written by `python -m batik_utils export --format space`; change it there."""

import logging
import os

from batik_utils.app import server
from batik_utils.app.predict import Predictor

logging.basicConfig(level=logging.INFO, format="%(message)s")
server.serve(
    Predictor.load("model", threads=1),
    host=os.environ.get("GRADIO_SERVER_NAME", "0.0.0.0"),
    port=int(os.environ.get("GRADIO_SERVER_PORT", "7860")),
)
