"""A sweep: every job of `-m` in a process of its own."""
