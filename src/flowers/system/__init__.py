"""Use the operating system: atomic files, processes, memory, signals."""
