"""Pictures in, pictures out: the one package through which every picture passes.

files     a file becomes a `Picture`, a picture becomes a file
metadata  the settings in a file
colour    colour profiles
canvas    the working copy that the network sees, and the way back into the picture
sheets    heat maps, overlays, cut-outs, grids
"""
