"""The model card: what the model is for, what it was made from, what it can and cannot do.

    >>> from batik_utils.classifier import model_card
    >>> model_card.text(metrics).splitlines()[0]
    '# Model card: three batik motifs'

All numbers come from ``metrics.json``. Form: Mitchell et al., 2019, Model Cards for Model Reporting
(https://arxiv.org/abs/1810.03993).
"""

#: How the kinds of other pictures are called in the card.
_KINDS = {
    "other motifs": "motifs that it never saw",
    "known other motifs": "new pictures of motifs that it knows as others",
}


def text(found: dict) -> str:
    """Return the card as Markdown.

    Args:
        found: content of ``metrics.json``.
    """
    model, rejection = found["model"], found["none_of_these"]
    largest = found["accuracy_without_largest_group"]
    clean = found["accuracy_without_doubted_labels"]
    recalls = "\n".join(f"| recall of {m} | {_percent(v)} |" for m, v in found["recall"].items())
    scores = "\n".join(
        f"| {_KINDS.get(row['other'], row['other'])} | {row['n_other']} | {row['auroc']:.3f} | "
        f"{1 - row['fpr_at_95']:.0%} | {1 - row['fpr_at_90']:.0%} |"
        for row in rejection["rows"]
        if row["score"] == "combined"
    )
    weights = "\n".join(f"- {name}" for name in model["weights"])
    return f"""# Model card: three batik motifs

Made by `python -m batik_utils build`, code {found["git"]}. All numbers: `metrics.json`.

## What it is

One ONNX file ({model["megabytes"]:.1f} MB, {model["parameters"] / 1e6:.1f} million numbers,
kernels stored as float16, computed in float32). Frozen ImageNet layers ({len(model["weights"])}
network) look at a picture squashed to a square; mean and standard deviation of their maps go into
a linear classifier, whose probabilities are calibrated by one temperature
({model["temperature"]:.2f}, from cross-validation). Chosen: {model["candidate"]}.

- Input `pixels`: uint8 (N, size, size, 3), RGB, see `preprocessing.json`.
- Output `probabilities`: (N, 3), order in `labels.json`, given that it is one of the three motifs.
- Output `familiarity`: (N,), higher is more like the three motifs. Below
  `familiarity_threshold` ({model["familiarity_threshold"]:.3f}, where 95 % of the motifs' own
  pictures are kept) the answer is "none of these".

Weights that it starts from:

{weights}

## Intended use

Learning and demonstration: which of betawi, sidoluhur and tambal a photograph of cloth shows. Not
for judging authenticity, origin or value of a cloth, and not for other motifs: there are hundreds.

## Data and its flaws

{found["pictures"]} pictures of the Kaggle set "Indonesian Batik Motifs" in {found["groups"]}
groups of near-twins, scraped from the web: shop photographs, watermarks, garments on people, wrong
and doubtful labels. {largest["size"]} of 50 sidoluhur pictures are one shop's paper goods with one
print. Many tambal pictures carry one shop's watermark band. {rejection["other_pictures"]} pictures
of 17 other motifs of the same set, no near-twins of the three, serve "none of these" and the scale
of the features. Changed copies of the pictures are learned from, too (crops, drawn watermarks,
other grounds, colours), so that a shop's habits tell less.

## Results

{found["protocol"]}; near-twins stay on one side; each fold chose its own settings inside its
training pictures. In brackets the 95 % interval over groups of near-twins.

| | |
|---|---|
| accuracy | {_percent(found["accuracy"])}, standard deviation between repeats \
{100 * found["accuracy_sd_between_repeats"]:.1f} points |
{recalls}
| accuracy without the {largest["size"]} paper goods | {_percent(largest)} |
| accuracy on the {clean["pictures"]} pictures with undoubted labels | {_percent(clean)} |
| log-loss (nats) | {found["nll"]:.3f} |
| expected calibration error | {found["expected_calibration_error"]:.3f} |

These are not free of optimism: which sets of features and which settings were offered to the folds,
and how "none of these" is computed, was decided by people who had seen such scores on the same
pictures (`../cv/ablation.csv` lists what was tried).

"None of these", on pictures that were not learned from. The shipped model knows the 17 other
motifs, so new pictures of them are the second row; any other motif is the first.

| other pictures | number | AUROC | rejected where 95 % of the three are kept | where 90 % are |
|---|---|---|---|---|
{scores}

All scores that were compared: `../cv/final/rejection.csv`; accuracy against coverage:
`../cv/final/coverage.csv`.

## Limits

- Pictures of other sources were not at hand; on them it may be better or worse than stated here.
- "None of these" misses many pictures of related motifs (sidomukti, ceplok and others look like
  sidoluhur, and the set itself files some pictures under both). To keep also the three motifs'
  doubtful pictures (paper goods, drawings, pictures filed under two motifs) the threshold is low.
- Fine-grained noise, pages of text and drawn cloth may pass as familiar.
- A picture is squashed to a square: very long strips lose their pattern.
- With {found["pictures"]} pictures every number above is uncertain by several points.

## Licences

Code: see LICENSE of the project. Weights: EfficientNet-Lite is Google's, Apache-2.0; of others see
`batik_utils/weights.py`. The photographs belong to their makers, their licence is unclear; none is
contained in the model or shown here.
"""


def _percent(share: dict) -> str:
    return f"{share['value']:.1%} [{share['lower']:.1%}, {share['upper']:.1%}]"
