"""The set `strokes`: Chinese characters written stroke by stroke."""
