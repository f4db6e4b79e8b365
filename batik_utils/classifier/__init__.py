"""The deployed classifier: frozen features, linear heads, "none of these", build and export."""
