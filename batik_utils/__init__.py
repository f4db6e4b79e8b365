"""Helpers behind the batik notebooks: find pictures, train recipes, score and show them.

A picture travels one way, and the modules stand in that order::

    motifs, pictures, synthetic -> data -> splits -> transforms -> weights, recipes, models
    -> engine -> metrics -> plots -> checkpoints -> results -> experiments -> tuning -> run
    -> __main__

No module imports one to its right. ``import batik_utils`` itself loads nothing heavy.
"""

__version__ = "0.1.0"
