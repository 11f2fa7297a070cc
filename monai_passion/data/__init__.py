"""Patients on disk: volumes, datalists, digital phantoms, and who lacks which modality."""
