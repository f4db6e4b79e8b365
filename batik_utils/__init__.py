"""Helpers behind the batik notebooks: find pictures, train recipes, score and show them.

A picture travels one way, and the modules stand in that order::

    errors, motifs, files, synthetic, data, array_cache
    features, planted, duplicates, duplicate_check, splits
    preprocessing, onnx_session, transforms, weights, recipes, scratch, models
    linear, engine, distributed, published, baselines
    metrics, out_of_fold, calibration, significance, plots, plots_cv, plots_bench, plots_formats
    masking, explain, shortcuts, plots_explain
    checkpoints, results, tracking, cluster, cluster_tuning
    experiments, tuning, cost, audit, comparison, cross_validation
    views, embedding, feature_files, rejection, selection, foreign, export, final
    ablation, fine_tuning, model_card, build, all_motifs
    predict, bulk, scaling, formats, quantised
    timing, bench, bench_scale, bench_tried, occlusion, texts, app, space, web
    parameters, run, colab, __main__

No module imports one to its right. ``import batik_utils`` itself loads nothing heavy.
"""

__version__ = "0.1.0"
