"""Image files: opening, resizing, motif names, drawn cloth. Needs Pillow and NumPy alone."""
