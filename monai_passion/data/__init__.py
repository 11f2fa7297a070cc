"""Patients on disk: volumes, datalists, and who lacks which modality."""
