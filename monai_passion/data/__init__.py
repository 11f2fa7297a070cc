"""Data: who has which modality, folders to datalists, digital phantoms."""
