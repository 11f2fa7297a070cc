"""The output of a prediction: report, preview, page, files."""
