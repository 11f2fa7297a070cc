"""How well does it segment, with which modalities, and how sure is that."""
