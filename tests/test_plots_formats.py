"""The figure of formats: it names the data, and draws what was measured and nothing else."""

import numpy as np
import pandas as pd

from batik_utils import plots_formats

TABLE = pd.DataFrame(
    {
        "format": ["onnx", "int8", "pt"],
        "megabytes": [7.0, 4.1, np.nan],
        "ratio": [1.0, 1.2, 2.5],
        "accuracy": [0.9, 0.87, np.nan],
        "lower": [0.85, 0.8, np.nan],
        "upper": [0.95, 0.92, np.nan],
    }
)


def test_what_was_measured_is_drawn():
    figure = plots_formats.formats(TABLE, "the title of the data")
    assert figure.get_suptitle().endswith("the title of the data")
    time, size, right = figure.axes
    assert [label.get_text() for label in time.get_yticklabels()] == ["onnx", "int8", "pt"]
    assert [bar.get_width() for bar in time.patches] == [1.0, 1.2, 2.5]
    assert [bar.get_width() for bar in size.patches] == [7.0, 4.1]
    assert [text.get_text() for text in time.texts] == ["1.00×", "1.20×", "2.50×"]
    assert [text.get_text() for text in right.texts] == ["90.0%", "87.0%"]
    assert [line.get_xdata()[0] for line in right.lines] == [0.9, 0.87]
    low, high = time.get_ylim()
    assert low > high  # the first row stands on top
