"""Renderers: from graph to the contents of a file."""
