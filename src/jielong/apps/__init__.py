"""Applications of the library: command line, demo, lab, comparison."""
