"""Pictures in, pictures out: the one package through which every picture passes.

headers   what a file says before anything is decoded, within bounds
colour    colour profiles: read, made, applied
metadata  what is stored besides the pixels: settings, EXIF, XMP, IPTC, texts, resolution
pixels    any mode as RGB of 8 bits, upright; large pictures strip by strip
read      a file, a PIL image or an array becomes a `Picture`
write     a picture becomes a file, all or nothing
canvas    the working copy that the network sees
paste     the way back into the picture: outside the mask every pixel stays
masks     masks from users and other programs, read and checked
zoom      the part of a large picture that an edit works on
sheets    heat maps, overlays, cut-outs, grids
video     films: mp4, webp, folders of frames; read back
gif       films as GIF
"""
