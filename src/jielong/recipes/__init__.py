"""Built-in recipes: one YAML file a system, named after it."""
