"""The experiments, a file each. A file here that declares a :class:`jielong.apps.lab.trial.Trial` is found by itself."""
