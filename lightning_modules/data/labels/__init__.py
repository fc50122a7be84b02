"""Labels as people write them, and what they are for each task."""

from lightning_modules.data.labels.readers import Label, LabelReader, label_reader

__all__ = ["Label", "LabelReader", "label_reader"]
