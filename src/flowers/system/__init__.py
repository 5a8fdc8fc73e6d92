"""What the operating system offers: whole files, processes, memory, signals."""
