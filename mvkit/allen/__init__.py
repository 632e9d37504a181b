"""Recordings of the Allen Brain Observatory, session by session, made into neural files."""
