"""Experiments, one per file. A file here that declares a :class:`jielong.apps.lab.trial.Trial` is registered."""
