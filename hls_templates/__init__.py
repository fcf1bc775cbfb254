"""Designs written out as HLS and checked."""
