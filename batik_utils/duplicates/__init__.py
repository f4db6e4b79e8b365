"""Near-duplicates and doubtful labels."""
