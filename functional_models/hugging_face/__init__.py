"""Folders of Hugging Face: one module of tables for each group of families."""

from functional_models.hugging_face.convert import from_hugging_face, is_hugging_face_folder

__all__ = ["from_hugging_face", "is_hugging_face_folder"]
