"""Batik image classification: the helper package behind five notebooks.

The modules in this folder are the course; the folders go beyond it::

    data, splits, transforms              pictures, their division, tensors       notebook 01
    models, weights, recipes              networks, pretrained weights, all runs  notebooks 02, 03
    training, baselines                   the loop; classifiers without a network notebooks 02, 03
    experiments, checkpoints              runs and grids; result files            notebooks 02, 03
    metrics, plots                        scores with intervals; figures           notebooks 01-04
    notebook, errors, __main__            Colab, headless runs; the command line
    images                                image files, resizing, motif names, drawn cloth
    duplicates, evaluation                near-duplicates; tables of the report   notebook 04
    classifier, app                       the deployed model; prediction, web app  notebook 05
    scale                                 Ray, Fabric, MLflow, the benchmark

Imports: errors <- images <- root modules <- duplicates, evaluation <- classifier <- scale; app
imports errors and images alone. ``import batik_utils`` loads nothing else.
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
