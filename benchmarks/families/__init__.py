"""Small random models of the families that people use, and what is checked of each."""

from benchmarks.families import pairs, pictures, texts, timm_models
from benchmarks.families.entry import Entry

ENTRIES: dict[str, Entry] = {  # "kind/name"
    f"{entry.kind}/{entry.name}": entry
    for module in (timm_models, texts, pictures, pairs)
    for entry in module.entries()
}
KINDS = tuple(dict.fromkeys(entry.kind for entry in ENTRIES.values()))
