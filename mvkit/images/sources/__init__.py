"""Where images come from: each layout of files is one module that lists its splits."""
