"""DiffEdit in pure torch: no files, no model hub, no printing, no Pillow.

Read in this order:

types        shapes, and what passes between the layers
schedules    noise levels, and the steps of a run
guidance     how two predictions become one
ddim         one step, inversion, decoding
mask         where two texts differ
diffedit     the three steps together
interpolate  between two texts or noises
text2image   pictures and films from texts
film         the way from a picture to its edit
"""
