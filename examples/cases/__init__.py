"""Designs and workloads of published systems, as `tilewright reproduce` runs them."""
