"""Folders of Hugging Face: their configurations, weights, tokenizers and chat templates."""
