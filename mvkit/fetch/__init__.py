"""Fetching what has been published: checkpoints as they are, recordings converted to neural files.

::

    catalogue   names, addresses and sizes of what has been published
    manifest    files to fetch, and the record of those fetched
    download    one file over HTTP: resumed, retried, checked
    run         ``mvkit fetch checkpoints`` and ``mvkit fetch neural``: plan, fetch, convert, verify

Nothing half-written ever carries a final name. Names are imported from these modules.
"""
