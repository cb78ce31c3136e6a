"""Files: written at once, locked while in use, checked when read, built by one process."""
