"""Inference on new images: predict, web app, static page, Space. Needs no torch."""
