"""Workers of a Ray cluster. The only room that imports Ray.

It knows nothing of images or networks: the rooms above hand it a function and the items to call it with.
"""
