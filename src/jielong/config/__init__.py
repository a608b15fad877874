"""Settings: the registry of parts, recipes, sampling."""
