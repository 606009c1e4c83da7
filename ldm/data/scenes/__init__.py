"""Captioned scenes composed from cut-out art: pictures of which everything that a caption says is known."""
