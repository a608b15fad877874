"""Curation of clips: a folder of videos is cut into shots, measured once, and filtered by one or several sets of thresholds."""
