"""Published accelerators, reproduced from their configuration alone."""
