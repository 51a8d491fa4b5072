"""Handing in a generated repo.

files    what belongs to it, and what must not: secrets, pickles, large files, links
checks   the report, the runs and the notebook
archive  the same files as the same bytes
"""
