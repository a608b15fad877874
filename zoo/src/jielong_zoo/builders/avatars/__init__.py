"""The set `avatars`: faces whose mouths follow the phonemes of speech."""
