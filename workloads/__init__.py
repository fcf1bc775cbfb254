"""Model and adapter files, read and lowered to graphs."""
