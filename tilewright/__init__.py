"""Tilewright: lower transformer and adapter workloads, simulate and co-design accelerators."""

__version__ = "0.1.0"
