"""Studies: design spaces searched against latency, energy and area."""
