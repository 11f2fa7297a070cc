"""Patients on disk: volumes, datalists, digital phantoms, and which modalities each patient has."""
