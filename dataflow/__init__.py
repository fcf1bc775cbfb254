"""Operators, graphs, cascades, passes and the scheduled form; knows nothing of hardware."""
