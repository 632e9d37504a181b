"""Recordings of one's own: read from arrays, tables and NWB files of other programs.

recordings      ``import_recordings``: files in, a dataset out
request         what is asked for
arrays          .npz, .npy, .mat, .h5
tables          .csv, .tsv, .parquet
spikes          .nwb
presentations   which image and trial a presentation is
array_files     named arrays of files, whatever program wrote them
"""
