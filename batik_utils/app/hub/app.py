"""The Space, written by `python -m batik_utils export --format space`; change it there."""

import os
import sys

from batik_utils.__main__ import main

PORT = os.environ.get("GRADIO_SERVER_PORT", "7860")
sys.exit(main(["app", "--model", "model", "--host", "0.0.0.0", "--port", PORT]))
