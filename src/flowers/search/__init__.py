"""Search for settings: sample overrides, train with each in a process of its own, and resume after a kill."""
