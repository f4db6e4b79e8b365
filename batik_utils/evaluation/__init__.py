"""Cross-validation tables, significance, calibration, search, Grad-CAM, shortcuts."""
