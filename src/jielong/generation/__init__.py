"""The one generator: its loss, its sampling loop, streams."""
