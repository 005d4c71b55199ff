"""The page of `diffedit serve`: a server on this machine alone, and the files that a browser gets from it.

It holds no algorithm: pictures, masks and edits go through the session, as on the command line.
"""
