"""Families of backbones that `keras.applications` does not have: one file each, with a literal table of its rows."""
