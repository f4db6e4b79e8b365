"""Helpers behind the batik notebooks: find pictures, train recipes, score and show them.

A picture travels one way, and the modules stand in that order::

    errors, motifs, pictures, synthetic, data
    features, planted, duplicates, duplicate_check, splits
    preprocessing, transforms, weights, recipes, scratch, models
    engine, baselines
    metrics, out_of_fold, calibration, significance, plots, plots_cv
    masking, explain, shortcuts, plots_explain
    checkpoints, results
    experiments, tuning, cost, audit, comparison, cross_validation
    views, embedding, linear, rejection, selection, foreign, export, final
    ablation, fine_tuning, model_card, build, all_motifs
    predict, occlusion, texts, app, space, web
    parameters, run, colab, __main__

No module imports one to its right. ``import batik_utils`` itself loads nothing heavy.
"""

__version__ = "0.1.0"
