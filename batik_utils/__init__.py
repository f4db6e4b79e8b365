"""Batik image classification: the helper package behind five notebooks.

The modules in this folder are the course, the folders go beyond it; the README says what is where.
``import batik_utils`` loads none of them.
"""

import os

__version__ = "0.1.0"

# Libraries that report their use read these when they are imported, which is later than this.
for _name, _value in {
    "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
}.items():
    os.environ.setdefault(_name, _value)
